"""Products of bfloat16 tiles: what they are, bit for bit, and that rows stay apart."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from test_own_bits import COLS, Product, every_code, inputs_of
from tiny_weights import random_matrix

from llm_serving.checkpoints import Tensor, dequantize
from llm_serving.native.core import load_core

core = load_core()
pytestmark = pytest.mark.skipif(not core.tile_set(), reason="this CPU has no tiles of bfloat16")
EXACT = [
    "Q4_0",
    "Q4_1",
    "Q4_K",
    "Q5_0",
    "Q5_K",
    "Q6_K",
    "Q3_K",
    "IQ4_NL",
    "IQ4_XS",
    "IQ3_S",
    "MXFP4",
]  # packed as they are


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The nearest, ties to even, as f32; below the normal numbers zero."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.abs(x) < 2.0**-126, np.float32(0), rounded)


def product(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As gemm_amx.cpp states it. Products of numbers of 8 bits are exact: only additions round."""
    a, w = to_bfloat16(inputs), to_bfloat16(weights)
    sums = np.zeros((len(a), len(w)), np.float32)
    for group in range(0, a.shape[1], 32):
        even, odd = np.zeros_like(sums), np.zeros_like(sums)
        for k in range(group, group + 32, 2):
            even += a[:, k, None] * w[None, :, k]
            odd += a[:, k + 1, None] * w[None, :, k + 1]
        sums += even + odd
    return sums


def blocks_of(kind: str, rows: int) -> np.ndarray:
    return random_matrix(np.random.default_rng(rows), rows, COLS, 0.5, kind)


def inputs_as_read(tokens: int) -> np.ndarray:
    """What the table behind `Product` makes of them: 8 bits."""
    plan = core.Plan(1, "scalar", tokens, 64)
    x = plan.buffer(COLS)
    half = inputs_of(tokens).astype(np.float16).view(np.uint8)
    plan.embed(plan.pack("F16", half.reshape(-1), tokens, COLS, "q8", None), x)
    ids, starts = np.arange(tokens, dtype=np.int32), np.array([0, tokens], np.int32)
    empty = np.zeros((1, 0), np.int32)
    rows: np.ndarray = plan.run(ids, ids, starts, empty, empty[0], x).copy()
    return rows


def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return bool((ours.view(np.uint32) == theirs.view(np.uint32)).all())


@pytest.mark.parametrize("tokens", [1, 7, 15, 16, 17, 31, 32, 33, 50, 64])
@pytest.mark.parametrize("rows", [8, 20, 40, 72])
def test_products_of_any_size(rows: int, tokens: int) -> None:
    blocks = blocks_of("Q4_0", rows)
    weights = dequantize(Tensor("w", "Q4_0", (rows, COLS), blocks.reshape(-1)))
    assert same(
        Product("amx", inputs_of(tokens)).run("Q4_0", blocks, "auto")[1],
        product(inputs_as_read(tokens), weights),
    )


@pytest.mark.parametrize("tokens", [3, 20])
@pytest.mark.parametrize("kind", EXACT)
def test_products_of_any_format(kind: str, tokens: int) -> None:
    blocks = blocks_of(kind, 33)
    weights = dequantize(Tensor("w", kind, (33, COLS), blocks.reshape(-1)))
    assert same(
        Product("amx", inputs_of(tokens)).run(kind, blocks, "auto")[1],
        product(inputs_as_read(tokens), weights),
    )


@pytest.mark.parametrize("wanted", ["s8", "q8", "q12"])
def test_products_of_bytes_and_more(wanted: str) -> None:
    """Of 8 and of 12 bits: of the same inputs, as no others are read by them here."""
    blocks = blocks_of("Q8_0", 33)
    weights = dequantize(Tensor("w", "Q8_0", (33, COLS), blocks.reshape(-1)))
    form, ours = Product("amx", inputs_of(20)).run("Q8_0", blocks, wanted)
    theirs = product(inputs_as_read(20), weights)
    assert form == wanted
    if wanted != "q12":
        assert same(ours, theirs)
    assert np.allclose(ours, theirs, rtol=0.02, atol=0.02 * np.abs(theirs).max())


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_a_row_does_not_depend_on_the_others(kind: str) -> None:
    blocks = blocks_of(kind, 40)
    inputs = inputs_of(64)
    together = Product("amx", inputs).run(kind, blocks, "auto")[1]
    for begin, end in ((0, 1), (5, 20), (20, 36), (36, 64)):
        assert same(Product("amx", inputs[begin:end]).run(kind, blocks, "auto")[1], together[begin:end])


def test_biases_and_sums_of_two_products() -> None:
    """Also where the last stretch of rows overlaps the one before: those are added to once."""
    blocks, inputs = blocks_of("Q4_0", 24), inputs_of(45)
    plain = Product("amx", inputs).run("Q4_0", blocks, "auto")[1]
    tried = Product("amx", inputs)
    bias = np.linspace(-3, 3, 24, dtype=np.float32)
    matrix, out = tried.pack("Q4_0", blocks, "auto"), tried.plan.buffer(24)
    tried.plan.linear([(matrix, tried.plan.vector(bias), out, 0)])
    tried.plan.linear([(matrix, -1, out, 0)], True)
    ids, starts = np.arange(45, dtype=np.int32), np.array([0, 45], np.int32)
    empty = np.zeros((1, 0), np.int32)
    assert same(tried.plan.run(ids, ids, starts, empty, empty[0], out), (plain + bias) + plain)


def test_scales_of_any_size_stay_numbers() -> None:
    """As the formats have them; f16's greatest scale times the greatest inputs."""
    for kind in ("Q5_0", "Q6_K"):
        assert kind in gguf.GGMLQuantizationType.__members__
        assert np.isfinite(Product("amx", inputs_of(20)).run(kind, every_code(kind, 33), "auto")[1]).all()


def test_nobody_chooses_it_unasked() -> None:
    """Answers come row by row, and prompts must give the same bits; so do short texts."""
    assert core.isa("auto") == core.instruction_sets()[0] != core.tile_set()
