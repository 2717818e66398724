"""Kinds of less than four bits: long tensors, experts, and where the grids come from."""

from __future__ import annotations

import sys

import gguf
import numpy as np
import pytest

from llm_serving.checkpoints import Tensor, dequantize
from llm_serving.checkpoints.grid_tables import grid_codes, shifted_codes
from llm_serving.checkpoints.kinds import GGUF_KINDS, KINDS
from llm_serving.checkpoints.small_kinds import CHUNK_BLOCKS, HELD_AS, to_held
from llm_serving.errors import CheckpointError


def random_blocks(kind: str, count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, count * GGUF_KINDS[kind].block_bytes, np.uint8)


@pytest.fixture
def forgotten():
    """No grid was looked up yet, and none of the test's own stays."""
    yield
    grid_codes.cache_clear()
    shifted_codes.cache_clear()


@pytest.mark.parametrize("kind", HELD_AS)
def test_blocks_of_four_bits_do_not_depend_on_their_neighbours(kind: str) -> None:
    data = random_blocks(kind, CHUNK_BLOCKS + 3)
    size, held = GGUF_KINDS[kind].block_bytes, KINDS[HELD_AS[kind]]
    blocks = to_held(kind, data).reshape(CHUNK_BLOCKS + 3, -1)
    assert blocks.shape[1] == GGUF_KINDS[kind].block_size // held.block_size * held.block_bytes
    for place in (0, CHUNK_BLOCKS - 1, CHUNK_BLOCKS, CHUNK_BLOCKS + 2):
        assert (blocks[place] == to_held(kind, data[size * place : size * (place + 1)])).all()


def test_an_expert_is_unpacked_alone() -> None:
    data = random_blocks("IQ2_S", 3 * 4 * 2)
    experts = Tensor("w", "IQ2_S", (3, 4, 512), data)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(data.reshape(12, -1), gguf.GGMLQuantizationType.IQ2_S).reshape(3, 4, 512)
    part = experts.part(1, 3)
    assert (part.kind, part.data.size) == ("IQ2_S", data.size // 3)
    assert np.array_equal(dequantize(part), expected[1], equal_nan=True)
    assert np.array_equal(dequantize(experts), expected, equal_nan=True)


@pytest.mark.parametrize("kind", ["IQ1_M", "IQ2_XXS"])
def test_without_the_package_the_error_names_it(
    kind: str, forgotten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid_codes.cache_clear()
    shifted_codes.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"package 'gguf'.*pip install 'gguf>=0\.17\.1'"):
        to_held(kind, random_blocks(kind, 1))
    assert len(to_held("TQ1_0", random_blocks("TQ1_0", 1))) == 8 * 18  # which needs no grid


@pytest.mark.parametrize(
    "grid", [None, np.zeros((256, 8), np.float32), np.full((256, 4), 8, np.float32), "8 25 43"]
)
def test_other_grids_are_refused(grid: object, forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:
    grid_codes.cache_clear()
    monkeypatch.setattr(gguf.quants.IQ2_XXS, "grid", grid)
    monkeypatch.setattr(gguf.quants.IQ2_XXS, "grid_hex", None)
    with pytest.raises(CheckpointError, match="gguf"):
        to_held("IQ2_XXS", random_blocks("IQ2_XXS", 1))


@pytest.mark.parametrize(("kind", "bits"), [("Q1_0", 1), ("Q2_0", 2)])
def test_weights_of_one_bit_and_two(kind: str, bits: int) -> None:
    """Which the package has no decoder for: the lowest bits first, -1 or 1, or from -1 to 2."""
    blocks = random_blocks(kind, 40).reshape(40, 18)
    blocks[:, :2] = np.linspace(-3, 3, 40).astype(np.float16)[:, None].view(np.uint8)
    places = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (blocks[:, 2:, None] >> places & (2**bits - 1)).reshape(40, -1).astype(np.float32)
    factors = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    expected = factors * (numbers * (2 if bits == 1 else 1) - 1)
    values = dequantize(Tensor("t", kind, expected.shape, blocks.reshape(-1)))
    assert np.array_equal(values, expected)
