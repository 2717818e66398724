"""Attention of decoders alone: rows of a table are queries, keys and values; what is made of them is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_serving.native.core import load_core

core = load_core()
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32
WIDTH = (HEADS + 2 * KV_HEADS) * HEAD_DIM
TOKENS = 600  # three pieces
SINGLY = [1] * 18 + [228] + [1] * 20 + [236] + [1] * 20 + [60] + [1] * 18  # around the borders of pieces
SCALE = HEAD_DIM**-0.5


def rows() -> np.ndarray:
    """Queries, keys and values of each token, float32 [TOKENS, WIDTH]."""
    return np.random.default_rng(4).standard_normal((TOKENS, WIDTH)).astype(np.float32)


class Heads:
    """Attention alone: token t's row comes in, and what attention makes of it comes out."""

    def __init__(
        self,
        isa: str,
        sinks: np.ndarray | None,
        kv_format: str,
        threads: int = 2,
        window: int = 0,
        falling: np.ndarray
        | None = None,  # float32 [HEADS, 2 * TOKENS + 16], by key - query from 1 - TOKENS on
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
        if falling is not None:
            bias = plan.vector(falling.reshape(-1))
        own = -1 if sinks is None else plan.vector(sinks)
        plan.attention(qkv, out, 0, HEADS, SCALE, window, bias, 0.0, own, bias_per_head=falling is not None)
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
