"""Contexts of several pieces: few new tokens split theirs over workers, many walk it alone; equal bits."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from runner_driver import DrivenSequence
from tiny_gpt_oss import write_tiny_gpt_oss
from tiny_models import SMALLEST_VOCAB, write_tiny_llama, write_tiny_qwen2

from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.native.core import load_core

PIECE = 256  # tokens; kPieceTokens in kernels.hpp
TEXT = np.random.default_rng(8).integers(0, SMALLEST_VOCAB, 2 * PIECE + 40).tolist()
LONG = np.random.default_rng(9).integers(0, SMALLEST_VOCAB, 6 * PIECE).tolist()
# Heads of 32 and of 40, three and one to a group: whole registers and a rest, several rows and one. Sinks in
# a layer with a window of one piece and a bit, and in one without.
MODELS = {
    "grouped": (write_tiny_llama, {"kind": "Q8_0", "hidden": 288, "heads": 9, "kv_heads": 3, "ffn": 416}),
    "alone": (write_tiny_qwen2, {"kind": "Q8_0", "hidden": 160, "heads": 4, "kv_heads": 4}),
    "sinks": (write_tiny_gpt_oss, {"kind": "Q8_0", "hidden": 96, "heads": 6, "window": 290, "layers": 2}),
}


@pytest.fixture(params=["q16", "q8", "q4"])
def make_driver(make_driver, request):
    """Every test here, of either kind of KV cache."""
    return partial(make_driver, kv_cache=request.param)


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory) -> Checkpoint:
    write, shape = MODELS[request.param]
    path = tmp_path_factory.mktemp("long") / "m.gguf"
    return open_checkpoint(str(write(path, **{"layers": 1, "context": len(LONG), **shape})))


@pytest.mark.parametrize("threads", [1, 3])
def test_few_tokens_equal_many(checkpoint: Checkpoint, make_driver, threads: int) -> None:
    """Steps of one to twelve tokens end before, at and after the edges of pieces."""
    whole = make_driver(checkpoint).logits(TEXT)
    driver = make_driver(checkpoint, threads=threads)
    for edge in (PIECE, 2 * PIECE):
        sequence, at = DrivenSequence(), edge - 7
        for start in range(0, at, 300):
            driver.step([(sequence, TEXT[start : min(start + 300, at)])], rows=[])
        for size in (1, 5, 1, 1, 12, 2, 3):
            got = driver.step([(sequence, TEXT[at : at + size])])
            assert np.array_equal(got.view(np.uint32), whole[at : at + size].view(np.uint32)), at
            at += size
        driver.finish(sequence)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_tile_of_several_pieces(checkpoint: Checkpoint, make_driver, threads: int) -> None:
    """Six pieces of few heads: each tile of the split context takes one, two or three of them."""
    whole = make_driver(checkpoint).logits(LONG)
    driver = make_driver(checkpoint, threads=threads)
    sequence, at = DrivenSequence(), len(LONG) - 3
    for start in range(0, at, 500):
        driver.step([(sequence, LONG[start : min(start + 500, at)])], rows=[])
    for size in (1, 2):
        got = driver.step([(sequence, LONG[at : at + size])])
        assert np.array_equal(got.view(np.uint32), whole[at : at + size].view(np.uint32))
        at += size


def test_long_and_short_contexts_side_by_side(checkpoint: Checkpoint, make_driver) -> None:
    whole = make_driver(checkpoint).logits(TEXT)
    driver = make_driver(checkpoint, threads=2)
    lengths = (len(TEXT) - 2, 3, PIECE, PIECE - 1)
    batch = [DrivenSequence() for _ in lengths]
    for sequence, length in zip(batch, lengths, strict=True):
        for start in range(0, length, 300):
            driver.step([(sequence, TEXT[start : min(start + 300, length)])], rows=[])
    for step in range(2):
        got = driver.step([(s, [TEXT[n + step]]) for s, n in zip(batch, lengths, strict=True)])
        expected = whole[[n + step for n in lengths]]
        assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_simd_equals_scalar(checkpoint: Checkpoint, make_driver) -> None:
    by_isa = {isa: make_driver(checkpoint, isa=isa) for isa in load_core().instruction_sets()}
    scalar = by_isa.pop("scalar")
    for chunk in (0, 12):
        expected = scalar.logits(TEXT, chunk)
        assert np.isfinite(expected).all()
        for isa, fast in by_isa.items():
            ours = fast.logits(TEXT, chunk)
            assert np.array_equal(ours.view(np.uint32), expected.view(np.uint32)), isa
