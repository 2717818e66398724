"""Attention sinks against numpy: one more score in each softmax, and no value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy_reference import causal_weights, mixed

from llm_serving.native.core import load_core

core = load_core()
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32
WIDTH = (HEADS + 2 * KV_HEADS) * HEAD_DIM
TOKENS = 600  # three pieces
SINGLY = [1] * 18 + [228] + [1] * 20 + [236] + [1] * 20 + [60] + [1] * 18  # around the borders of pieces
SCALE = HEAD_DIM**-0.5
SINKS = np.array([-2.0, 0.0, 3.0, 9.0], np.float32)  # the largest score of all, and the least, are among them


def rows() -> np.ndarray:
    """Queries, keys and values of each token, float32 [TOKENS, WIDTH]."""
    return np.random.default_rng(4).standard_normal((TOKENS, WIDTH)).astype(np.float32)


class Heads:
    """Attention alone: token t's row comes in, and what attention makes of it comes out."""

    def __init__(
        self, isa: str, sinks: np.ndarray | None, kv_format: str, threads: int = 2, window: int = 0
    ) -> None:
        plan: Any = core.Plan(threads, isa, TOKENS, TOKENS)
        attended = HEADS * HEAD_DIM
        qkv, out, last, self.logits = (plan.buffer(w) for w in (WIDTH, attended, attended, attended))
        plan.embed(plan.pack("F32", rows().view(np.uint8).reshape(-1), TOKENS, WIDTH, "f32", None), qkv)
        plan.rope_store(qkv, 0, HEADS)
        bias = -1
        if window:
            distances = np.arange(1 - TOKENS, TOKENS + 17)
            unseen = np.where(distances > -window, 0, -1e30)
            bias = plan.vector(unseen.astype(np.float32))
        own = -1 if sinks is None else plan.vector(sinks)
        plan.attention(qkv, out, 0, HEADS, SCALE, window, bias, 0.0, own)
        plan.select_rows(out, last)
        plan.quantize(last)
        identity = np.eye(attended, dtype=np.float32).view(np.uint8).reshape(-1)
        plan.linear([(plan.pack("F32", identity, attended, attended, "f32", None), -1, self.logits, 0)])
        still = np.concatenate([np.ones((TOKENS, HEAD_DIM // 2)), np.zeros((TOKENS, HEAD_DIM // 2))], axis=1)
        plan.rope_table(still.astype(np.float32))
        plan.kv_cache([(KV_HEADS, HEAD_DIM)], -(-TOKENS // 16), kv_format)
        self.plan = plan

    def run(self, chunk: int = TOKENS) -> np.ndarray:
        """float32 [TOKENS, HEADS * HEAD_DIM], so many tokens a step."""
        return self.in_pieces([min(chunk, TOKENS - start) for start in range(0, TOKENS, chunk)])

    def in_pieces(self, sizes: list[int]) -> np.ndarray:
        """The same, in steps of these numbers of tokens."""
        tables = np.arange(-(-TOKENS // 16), dtype=np.int32)[None]
        ends = np.cumsum(sizes)
        parts = []
        for start, end in zip(ends - sizes, ends, strict=True):
            ids = np.arange(start, end, dtype=np.int32)
            count = np.arange(len(ids), dtype=np.int32)
            starts = np.array([0, len(ids)], np.int32)
            parts.append(self.plan.run(ids, ids, starts, tables, count, self.logits).copy())
        return np.concatenate(parts)


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
@pytest.mark.parametrize("kv_format", ["q16", "q8"])
def test_it_is_numpys(kv_format: str, window: int) -> None:
    ours = Heads("auto", SINKS, kv_format, window=window).run()
    largest = 2e-3 if kv_format == "q16" else 0.05
    np.testing.assert_allclose(ours, expected(SINKS, window), atol=largest)
    assert np.abs(ours - Heads("auto", None, kv_format, window=window).run()).max() > 0.1


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("kv_format", ["q16", "q8"])
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
