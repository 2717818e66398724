"""Who changes what packing gives must raise kPacking, or files on disk are read as what they are not."""

from __future__ import annotations

import hashlib

import numpy as np

from llm_serving.checkpoints.kinds import KINDS as KINDS_READ
from llm_serving.native.core import load_core

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0",
         "Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NF4", "E2M1_16",
         "IQ2_CODED", "IQ3_XXS_CODED", "IQ3_S_CODED")  # fmt: skip
DIRECTORY_KINDS = ("NF4", "E2M1_16")
FORMATS = ("auto", "careful", "q4", "s8", "q8", "q12")
# Where a block has f16 numbers, if not in its first four bytes.
PLACES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "MXFP4": ()} | dict.fromkeys(
    ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS", "IQ2_CODED", "IQ3_XXS_CODED", "IQ3_S_CODED"), (0,)
)
ROWS, COLS = 11, 256
VERSION = 4
DIGEST = "6f8caa6db0ad86da557e43efada040bc975a1b368d27f79528d66ca601660366"


class Bits:
    """Random bytes that are the same with every numpy: only its bit generators promise that."""

    def __init__(self) -> None:
        self._source = np.random.PCG64(0)

    def take(self, *shape: int) -> np.ndarray:
        words = self._source.random_raw(-(-int(np.prod(shape)) // 8))
        return words.view(np.uint8)[: int(np.prod(shape))].reshape(shape)


def blocks_of(kind: str, bits: Bits) -> np.ndarray:
    """Random quants, and scales that are finite numbers of a usual size."""
    if kind in ("F32", "F16", "BF16"):
        values = bits.take(2 * ROWS * COLS).view(np.int16).astype(np.float32).reshape(ROWS, COLS) / 7919
        if kind == "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(-1)
        return values.astype(np.float16 if kind == "F16" else np.float32).view(np.uint8).reshape(-1)
    size, num_bytes = KINDS_READ[kind].block_size, KINDS_READ[kind].block_bytes
    blocks = bits.take(ROWS * COLS // size, num_bytes)
    if kind in DIRECTORY_KINDS:
        scales = (1 + blocks[:, 0 : num_bytes - 16 : 4].astype(np.float32)) / np.float32(2579)
        blocks[:, : num_bytes - 16] = scales.view(np.uint8)
        return blocks.reshape(-1)
    if kind == "MXFP4":
        blocks[:, 0] = 110 + blocks[:, 0] % 16  # a power of two
    places = PLACES.get(kind, (0, 2))
    for place in places:
        scales = ((1 + bits.take(len(blocks)).astype(np.float32)) / 2579).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def test_packing_is_what_its_version_says() -> None:
    core = load_core()
    bits = Bits()
    digest = hashlib.sha256()
    order = np.arange(ROWS, dtype=np.int32)[::-1].copy()
    packed, plain = core.Plan(2, "scalar", 1, 1), core.Plan(2, "scalar", 1, 1)
    for kind in KINDS:
        data = blocks_of(kind, bits)
        for form in (*FORMATS, "f32"):
            if (kind, form) == ("Q8_0", "auto"):  # which the CPU decides
                continue
            plan = plain if form == "f32" else packed
            name, panels = plan.panels(plan.pack(kind, data, ROWS, COLS, form, order))
            digest.update(f"{kind} {form} {name} {packed.checksum(panels)}".encode())
            digest.update(panels)
    assert (core.PACKING, digest.hexdigest()) == (VERSION, DIGEST), (
        "packing has changed: raise kPacking in packed.hpp, then VERSION and DIGEST here"
    )
