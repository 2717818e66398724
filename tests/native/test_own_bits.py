"""Weights of one to six bits: packed as the file has them, multiplied as bytes would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from packed_starts import start
from tiny_models import write_tiny_qwen3_moe
from tiny_weights import random_matrix

from llm_serving.checkpoints import Tensor, dequantize
from llm_serving.native.core import load_core

__all__ = ["start"]

core = load_core()
NAMES = core.instruction_sets()
# Whose bits number values of a table, or become four that do.
CODED = {"MXFP4": "mxfp4", "IQ4_NL": "iq4_nl", "IQ4_XS": "iq4_xs", "IQ1_S": "iq2", "IQ2_XS": "iq2",
         "IQ3_XXS": "iq3_xxs", "IQ3_S": "iq3_s", "TQ2_0": "q4_centred"}  # fmt: skip
KINDS = CODED | {"Q3_K": "q3_k", "Q5_0": "q5", "Q5_K": "q5_k", "Q6_K": "q6"}  # → packed format
# Where a block has f16 numbers, if not in its first two bytes.
PLACES = {"MXFP4": (), "Q3_K": (108,), "Q5_K": (0, 2), "Q6_K": (208,), "TQ2_0": (64,)}
COLS = 512


def every_code(kind: str, rows: int = 64) -> np.ndarray:
    """Blocks of any bits under scales of any size, uint8 [rows, bytes]; none becomes infinite."""
    size, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    bits = np.random.default_rng(5)
    blocks = bits.integers(0, 256, (rows * COLS // size, num_bytes), np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = np.arange(len(blocks)) % 252
    for place in PLACES.get(kind, (0,)):
        scales = bits.uniform(-4, 4, len(blocks)).astype(np.float16)
        scales[:6] = [0, -0.0, 2**-24, -(2**-24), 65504, -65504]
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def pack(plan: Any, kind: str, blocks: np.ndarray, wanted: str) -> int:
    tensor = Tensor("w", kind, (len(blocks), COLS), blocks.reshape(-1)).as_rows()
    return int(plan.pack(tensor.kind, tensor.data, len(blocks), COLS, wanted, None))


class Product:
    """Rows of an f16 table, in 8 bits, times matrices."""

    def __init__(self, isa: str, inputs: np.ndarray) -> None:
        self.plan: Any = core.Plan(2, isa, len(inputs), 64)
        self.x = self.plan.buffer(COLS)
        self.tokens = len(inputs)
        self.plan.embed(self.pack("F16", inputs.astype(np.float16).view(np.uint8), "q8"), self.x)
        self.plan.quantize(self.x)

    def pack(self, kind: str, blocks: np.ndarray, wanted: str) -> int:
        return pack(self.plan, kind, blocks, wanted)

    def run(self, kind: str, blocks: np.ndarray, wanted: str) -> tuple[str, np.ndarray]:
        """The matrix's format, and of each input the products with its rows."""
        matrix, out = self.pack(kind, blocks, wanted), self.plan.buffer(len(blocks))
        self.plan.linear([(matrix, -1, out, 0)])
        ids, starts = np.arange(self.tokens, dtype=np.int32), np.array([0, self.tokens], np.int32)
        empty = np.zeros((1, 0), np.int32)
        return self.plan.panels(matrix)[0], self.plan.run(ids, ids, starts, empty, empty[0], out).copy()


def inputs_of(tokens: int) -> np.ndarray:
    """Sizes of all kinds, and the greatest integers side by side."""
    rng = np.random.default_rng(tokens)
    sizes = 10.0 ** rng.integers(-3, 3, (tokens, COLS // 16))
    values = rng.standard_normal((tokens, COLS)) * sizes.repeat(16, axis=1)
    values[:, :64] = 1000
    values[:, 64:128] = -1000
    return values


def embedded(kind: str, blocks: np.ndarray, isa: str) -> np.ndarray:
    """The rows of a packed matrix in f32."""
    plan = core.Plan(1, isa, len(blocks), 64)
    x = plan.buffer(COLS)
    plan.embed(pack(plan, kind, blocks, "auto"), x)
    ids, starts = np.arange(len(blocks), dtype=np.int32), np.array([0, len(blocks)], np.int32)
    empty = np.zeros((1, 0), np.int32)
    rows: np.ndarray = plan.run(ids, ids, starts, empty, empty[0], x).copy()
    return rows


@pytest.mark.parametrize("isa", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_matrix_is_what_the_file_says(kind: str, isa: str) -> None:
    blocks = every_code(kind)
    expected = dequantize(Tensor("w", kind, (len(blocks), COLS), blocks.reshape(-1)))
    rows = embedded(kind, blocks, isa)
    assert np.isfinite(expected).all()
    assert (rows == expected).all()


@pytest.mark.parametrize("wanted", ["auto", "careful", "q4"])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_stay_as_many(kind: str, wanted: str) -> None:
    """Fewer if that is asked for; but 8 for 16-bit activations, where those are."""
    blocks = every_code(kind)
    plan = core.Plan(1, "scalar", 1, 1)
    form, panels = plan.panels(pack(plan, kind, blocks, wanted))
    if kind not in CODED and wanted != "auto":
        assert form == ("q8" if wanted == "careful" else "q4")
        return
    assert form == KINDS[kind]
    # More bytes for 256 weights: steps are bytes where the file has six bits, and nibbles hold three bits.
    more = {"IQ4_XS": 2, "Q3_K": 36, "Q5_K": 4}.get(kind, 0) * COLS // 256
    coded = Tensor("w", kind, (len(blocks), COLS), blocks.reshape(-1)).as_rows()
    panel = 8 * (coded.data.size // len(blocks) + more)
    assert len(panels) == len(blocks) // 8 * -(-panel // 64) * 64


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 8, 13, 43])
@pytest.mark.parametrize("rows", [8, 20, 33])
@pytest.mark.parametrize("kind", ["MXFP4", "IQ4_NL", "Q5_0"])
def test_products_are_those_of_the_same_weights_as_bytes(kind: str, rows: int, tokens: int) -> None:
    blocks = random_matrix(np.random.default_rng(rows), rows, COLS, 0.5, kind)
    for isa in NAMES:
        form, ours = Product(isa, inputs_of(tokens)).run(kind, blocks, "auto")
        bytes_form, theirs = Product(isa, inputs_of(tokens)).run(kind, blocks, "s8")
        assert (form, bytes_form) == (KINDS[kind], "s8")
        assert (ours.view(np.uint32) == theirs.view(np.uint32)).all()


@pytest.mark.parametrize("tokens", [1, 4, 8, 13, 43])
@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_set_computes_the_same(kind: str, tokens: int) -> None:
    """Also with scales that f16 cannot hold, short of sums that f32 cannot."""
    blocks = every_code(kind, 33)
    if kind == "MXFP4":
        blocks.reshape(-1, 17)[:, 0] %= 210
    scalar = Product("scalar", inputs_of(tokens)).run(kind, blocks, "auto")[1]
    values = dequantize(Tensor("w", kind, (len(blocks), COLS), blocks.reshape(-1))).astype(np.float64)
    exact = inputs_of(tokens).astype(np.float16) @ values.T
    size = np.abs(inputs_of(tokens)) @ np.abs(values).T
    assert (np.abs(scalar - exact) <= 0.02 * size).all()
    for isa in NAMES:
        ours = Product(isa, inputs_of(tokens)).run(kind, blocks, "auto")[1]
        assert (ours.view(np.uint32) == scalar.view(np.uint32)).all()


def test_exponents_near_nothing() -> None:
    """Those below f32's normal numbers; inputs so large that the products are not."""
    blocks = every_code("MXFP4", 33)
    blocks.reshape(-1, 17)[:, 0] = np.arange(33 * COLS // 32) % 4
    large = np.full((5, COLS), 60000.0)
    outputs = [Product(isa, large).run("MXFP4", blocks, "auto")[1] for isa in NAMES]
    assert np.abs(outputs[0]).max() > 1e-35
    assert all((out.view(np.uint32) == outputs[0].view(np.uint32)).all() for out in outputs)


def test_packed_files_hold_all_of_them(start, tmp_path: Path) -> None:
    kinds = {
        "ffn_down": "IQ4_NL",
        "attn_q": "IQ4_XS",
        "attn_k": "Q6_K",
        "attn_v": "Q5_K",
        "ffn_up": "Q3_K",
        "ffn_gate": "IQ2_XS",
    }
    model = write_tiny_qwen3_moe(tmp_path / "m.gguf", kind="MXFP4", kinds=kinds, hidden=256, ffn=64)
    first, second = start(model), start(model)
    assert (first.adopted, second.packed) == (0, 0)
    assert second.adopted == first.packed > 10
    assert first.logits.tobytes() == second.logits.tobytes()
