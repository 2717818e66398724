"""Attention sinks against numpy: one more score in each softmax, and no value."""

from __future__ import annotations

import numpy as np
import pytest
from attention_alone import HEAD_DIM, HEADS, KV_HEADS, SCALE, SINGLY, TOKENS, Heads, core, rows
from numpy_reference import causal_weights, mixed

SINKS = np.array([-2.0, 0.0, 3.0, 9.0], np.float32)  # the largest score of all, and the least, are among them


def expected(sinks: np.ndarray, window: int = 0) -> np.ndarray:
    q, k, v = np.split(
        rows().reshape(TOKENS, -1, HEAD_DIM).astype(np.float64), [HEADS, HEADS + KV_HEADS], axis=1
    )
    weights = causal_weights(q, k, 0.0, window)
    grouped = q.reshape(TOKENS, KV_HEADS, -1, HEAD_DIM).transpose(1, 2, 0, 3)
    scores = grouped @ k.transpose(1, 2, 0)[:, None] * SCALE
    # Of the softmax without sinks, one weight tells the sum: that of the token itself.
    own = np.einsum("hgii->hgi", scores) - np.log(np.einsum("hgii->hgi", weights))
    share = 1 / (1 + np.exp(sinks.reshape(KV_HEADS, -1, 1) - own))
    return mixed(weights * share[..., None], v)


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("kv_format", ["q16", "q8", "q4"])
def test_it_is_numpys(kv_format: str, window: int) -> None:
    ours = Heads("auto", SINKS, kv_format, window=window).run()
    largest = {"q16": 2e-3, "q8": 0.05, "q4": 0.5}[kv_format]
    np.testing.assert_allclose(ours, expected(SINKS, window), atol=largest)
    assert np.abs(ours - Heads("auto", None, kv_format, window=window).run()).max() > 0.1


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("kv_format", ["q16", "q8", "q4"])
def test_the_same_bits_however_it_is_cut(kv_format: str, window: int) -> None:
    """One token a step splits its context into pieces; many walk it as a whole."""
    whole = Heads("scalar", SINKS, kv_format, 1, window).run()
    assert np.isfinite(whole).all()
    for isa in core.instruction_sets():
        singly = Heads(isa, SINKS, kv_format, 3, window).in_pieces(SINGLY)
        np.testing.assert_array_equal(singly.view(np.uint32), whole.view(np.uint32))
        for threads, chunk in ((1, TOKENS), (2, 7), (3, 12), (2, 100)):
            ours = Heads(isa, SINKS, kv_format, threads, window).run(chunk)
            np.testing.assert_array_equal(ours.view(np.uint32), whole.view(np.uint32))


@pytest.mark.parametrize("sink", [-1e4, -200.0])
def test_a_sink_far_below_all_scores_is_none(sink: float) -> None:
    ours = Heads("auto", np.full(HEADS, sink, np.float32), "q16").run()
    np.testing.assert_allclose(ours, Heads("auto", None, "q16").run(), rtol=1e-6, atol=1e-7)


def test_a_sink_far_above_all_scores_leaves_nothing() -> None:
    ours = Heads("auto", np.full(HEADS, 1e4, np.float32), "q16").run()
    assert np.isfinite(ours).all()
    assert np.abs(ours).max() < 1e-30


def test_there_is_one_for_each_query_head() -> None:
    with pytest.raises(ValueError, match="a sink for each query head"):
        Heads("auto", SINKS[:2], "q16")
