"""Quantised tensors to float32 in numpy: the reference for the kernels, and the way small tensors are read.

Block layouts are ggml's (`ggml-common.h`). A block of 4-bit values keeps its first half in the low nibbles
and its second half in the high ones; K-quants do so for every 64 values of their 256.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from llm_serving.checkpoints.checkpoint import Tensor
from llm_serving.checkpoints.code_tables import (
    E2M1,
    GRID_2,
    GRID_3_S,
    GRID_3_XXS,
    NORMAL_FLOATS,
    NORMAL_STEPS,
)
from llm_serving.checkpoints.kinds import KINDS

CHUNK_BLOCKS = 1 << 14  # bounds the temporaries, whatever the tensor's size

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Blocks = NDArray[np.void]  # one structured element a block

_HALF, _BYTE, _SIGNED = "<f2", "u1", "i1"
_LAYOUTS = {
    "F32": np.dtype([("values", "<f4", 1)]),
    "F16": np.dtype([("values", "<f2", 1)]),
    "BF16": np.dtype([("values", "<u2", 1)]),
    "Q2_K": np.dtype([("scales", _BYTE, 16), ("qs", _BYTE, 64), ("d", _HALF), ("m", _HALF)]),
    "Q3_K": np.dtype([("qh", _BYTE, 32), ("qs", _BYTE, 64), ("scales", _BYTE, 12), ("d", _HALF)]),
    "Q4_0": np.dtype([("d", _HALF), ("qs", _BYTE, 16)]),
    "Q4_1": np.dtype([("d", _HALF), ("m", _HALF), ("qs", _BYTE, 16)]),
    "Q5_0": np.dtype([("d", _HALF), ("qh", _BYTE, 4), ("qs", _BYTE, 16)]),
    "Q5_1": np.dtype([("d", _HALF), ("m", _HALF), ("qh", _BYTE, 4), ("qs", _BYTE, 16)]),
    "Q8_0": np.dtype([("d", _HALF), ("qs", _SIGNED, 32)]),
    "Q4_K": np.dtype([("d", _HALF), ("m", _HALF), ("scales", _BYTE, 12), ("qs", _BYTE, 128)]),
    "Q5_K": np.dtype(
        [("d", _HALF), ("m", _HALF), ("scales", _BYTE, 12), ("qh", _BYTE, 32), ("qs", _BYTE, 128)]
    ),
    "Q6_K": np.dtype([("ql", _BYTE, 128), ("qh", _BYTE, 64), ("scales", _SIGNED, 16), ("d", _HALF)]),
    "IQ4_NL": np.dtype([("d", _HALF), ("qs", _BYTE, 16)]),
    "IQ4_XS": np.dtype([("d", _HALF), ("high", "<u2"), ("low", _BYTE, 4), ("qs", _BYTE, 128)]),
    "MXFP4": np.dtype([("exponent", _BYTE), ("qs", _BYTE, 16)]),
    "NF4": np.dtype([("largest", "<f4"), ("qs", _BYTE, 16)]),
    "E2M1_16": np.dtype([("scales", "<f4", 2), ("qs", _BYTE, 16)]),
    "IQ2_CODED": np.dtype([("d", _HALF), ("steps", _SIGNED, 16), ("qs", _BYTE, 128)]),
    "IQ3_XXS_CODED": np.dtype([("d", _HALF), ("steps", _SIGNED, 8), ("qs", _BYTE, 128)]),
    "IQ3_S_CODED": np.dtype([("d", _HALF), ("steps", _SIGNED, 8), ("qs", _BYTE, 128)]),
}


def dequantize(tensor: Tensor) -> Floats:
    """Return a new float32 array of `tensor.shape`, equal bit for bit to ggml's own reference."""
    rows = tensor.as_rows()
    blocks = rows.data.view(_LAYOUTS[rows.kind])
    out = np.empty((len(blocks), KINDS[rows.kind].block_size), np.float32)
    unpack = _UNPACK[rows.kind]
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale may be inf or NaN; so is the result
        for start in range(0, len(blocks), CHUNK_BLOCKS):
            chunk = blocks[start : start + CHUNK_BLOCKS]
            out[start : start + CHUNK_BLOCKS] = unpack(chunk).reshape(len(chunk), -1)
    return out.reshape(tensor.shape)


def _floats(blocks: Blocks) -> Floats:
    return np.asarray(blocks["values"], np.float32)


def _bfloat16(blocks: Blocks) -> Floats:
    return (np.asarray(blocks["values"], np.uint32) << 16).view(np.float32)


def _column(halves: NDArray[np.float16]) -> Floats:
    return halves.astype(np.float32)[:, None]


def _nibbles(qs: Bytes, group: int) -> Bytes:
    """uint8 [blocks, bytes] to [blocks, 2 * bytes]: low nibbles of `group` bytes, then their high ones."""
    pairs = qs.reshape(len(qs), -1, 1, group)
    return np.concatenate([pairs & 0x0F, pairs >> 4], axis=2).reshape(len(qs), -1)


def _fifth_bits(qh: Bytes) -> Bytes:
    return np.left_shift(np.unpackbits(qh, axis=1, bitorder="little"), 4, dtype=np.uint8)


def _q4_0(blocks: Blocks) -> Floats:
    return _column(blocks["d"]) * (_nibbles(blocks["qs"], 16).astype(np.float32) - 8)


def _q4_1(blocks: Blocks) -> Floats:
    return _column(blocks["d"]) * _nibbles(blocks["qs"], 16).astype(np.float32) + _column(blocks["m"])


def _q5_0(blocks: Blocks) -> Floats:
    quants = _nibbles(blocks["qs"], 16) | _fifth_bits(blocks["qh"])
    return _column(blocks["d"]) * (quants.astype(np.float32) - 16)


def _q5_1(blocks: Blocks) -> Floats:
    quants = _nibbles(blocks["qs"], 16) | _fifth_bits(blocks["qh"])
    return _column(blocks["d"]) * quants.astype(np.float32) + _column(blocks["m"])


def _q8_0(blocks: Blocks) -> Floats:
    return _column(blocks["d"]) * np.asarray(blocks["qs"], np.float32)


def _k_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """12 bytes to eight 6-bit scales and eight 6-bit minima, each uint8 [blocks, 8].

    Bytes 0–3 and 4–7 hold the first four scales and minima; their two top bits are the top bits of the
    last four, whose low nibbles are in bytes 8–11.
    """
    scales, minima, low = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    return (
        np.concatenate([scales & 0x3F, (low & 0x0F) | (scales >> 6 << 4)], axis=1),
        np.concatenate([minima & 0x3F, (low >> 4) | (minima >> 6 << 4)], axis=1),
    )


def _pairs(packed: Bytes) -> Bytes:
    """uint8 [blocks, bytes] to [blocks, 4, bytes]: the lowest two bits of each byte first."""
    pairs: Bytes = packed[:, None] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & np.uint8(3)
    return pairs


def _q2_k(blocks: Blocks) -> Floats:
    halves = blocks["qs"].reshape(-1, 32)  # of 128 values
    quants = _pairs(halves).reshape(-1, 16, 16).astype(np.float32)
    scales = blocks["scales"]
    factor = _column(blocks["d"]) * (scales & 0x0F).astype(np.float32)
    offset = _column(blocks["m"]) * (scales >> 4).astype(np.float32)
    values: Floats = factor[:, :, None] * quants - offset[:, :, None]
    return values


def _q3_k(blocks: Blocks) -> Floats:
    # Of 16 scales the low nibbles are in eight bytes, the two bits above them in four.
    low, high = blocks["scales"][:, :8], blocks["scales"][:, 8:]
    scales = _nibbles(low, 8) | _pairs(high).reshape(-1, 16) << 4
    factor = _column(blocks["d"]) * (scales.astype(np.float32) - 32)
    # Bit g of byte i is the third bit of value i in group g of 32.
    third = np.unpackbits(blocks["qh"][:, :, None], axis=2, bitorder="little").transpose(0, 2, 1) << 2
    quants = _pairs(blocks["qs"].reshape(-1, 32)).reshape(-1, 8, 32) | third
    values: Floats = factor[:, :, None] * (quants.reshape(-1, 16, 16).astype(np.float32) - 4)
    return values


def _iq4_nl(blocks: Blocks) -> Floats:
    return np.multiply(_column(blocks["d"]), NORMAL_STEPS[_nibbles(blocks["qs"], 16)])


def _iq4_xs(blocks: Blocks) -> Floats:
    high = blocks["high"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = (_nibbles(blocks["low"], 1) | high << 4).astype(np.float32) - 32
    quants = NORMAL_STEPS[_nibbles(blocks["qs"], 16)]
    values: Floats = (_column(blocks["d"]) * scales)[:, :, None] * quants.reshape(-1, 8, 32)
    return values


def _mxfp4(blocks: Blocks) -> Floats:
    exponents = blocks["exponent"].astype(np.int32)
    powers = np.ldexp(np.float32(1), exponents - 128)  # halved, so that the largest is finite
    values: Floats = powers[:, None] * (2 * E2M1)[_nibbles(blocks["qs"], 16)]
    return values


def _nf4(blocks: Blocks) -> Floats:
    values: Floats = blocks["largest"][:, None] * NORMAL_FLOATS[_nibbles(blocks["qs"], 16)]
    return values


def _e2m1_16(blocks: Blocks) -> Floats:
    numbers = E2M1[_nibbles(blocks["qs"], 16)].reshape(-1, 2, 16)
    values: Floats = blocks["scales"][:, :, None] * numbers
    return values


def _coded(blocks: Blocks, unit: float, table: Floats) -> Floats:
    steps = np.float32(unit) * _column(blocks["d"]) * blocks["steps"].astype(np.float32)
    numbers = table[_nibbles(blocks["qs"], 16)].reshape(*steps.shape, -1)
    values: Floats = steps[:, :, None] * numbers
    return values


def _k_affine(blocks: Blocks, quants: Bytes) -> Floats:
    scales, minima = _k_scales(blocks["scales"])
    factor = (_column(blocks["d"]) * scales.astype(np.float32))[:, :, None]
    offset = (_column(blocks["m"]) * minima.astype(np.float32))[:, :, None]
    return factor * quants.reshape(-1, 8, 32).astype(np.float32) - offset


def _q4_k(blocks: Blocks) -> Floats:
    return _k_affine(blocks, _nibbles(blocks["qs"], 32))


def _q5_k(blocks: Blocks) -> Floats:
    # Bit g of byte i is the fifth bit of value i in group g of 32.
    fifth = np.unpackbits(blocks["qh"][:, :, None], axis=2, bitorder="little").transpose(0, 2, 1) << 4
    return _k_affine(blocks, _nibbles(blocks["qs"], 32) | fifth.reshape(len(blocks), -1))


def _q6_k(blocks: Blocks) -> Floats:
    # Bits 2g and 2g+1 of a high byte belong to group g of 32 in its half of the block.
    high = blocks["qh"].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    quants = _nibbles(blocks["ql"], 64) | ((high & 3) << 4).reshape(len(blocks), -1)
    scales = (_column(blocks["d"]) * blocks["scales"].astype(np.float32))[:, :, None]
    return scales * (quants.reshape(-1, 16, 16).astype(np.float32) - 32)


_UNPACK: dict[str, Callable[[Blocks], Floats]] = {
    "F32": _floats,
    "F16": _floats,
    "BF16": _bfloat16,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
    "NF4": _nf4,
    "E2M1_16": _e2m1_16,
    "IQ2_CODED": partial(_coded, unit=0.125, table=GRID_2),
    "IQ3_XXS_CODED": partial(_coded, unit=0.25, table=GRID_3_XXS),
    "IQ3_S_CODED": partial(_coded, unit=0.25, table=GRID_3_S),
}
