"""Sums of products of integers stay within 32 bits for the vectors that make them largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kv_reference import turned

from llm_serving.native.core import load_core

core = load_core()
TOKENS = 256  # a piece: as many weights as are added up in one sum


def attended(isa: str, kv_format: str, head_dim: int, rows: np.ndarray) -> np.ndarray:
    """float32 [TOKENS, head_dim] of one head; token t's query, key and value are rows[t] [3 * head_dim]."""
    width = 3 * head_dim
    plan: Any = core.Plan(1, isa, TOKENS, TOKENS)
    qkv, out, last, logits = (plan.buffer(w) for w in (width, head_dim, head_dim, head_dim))
    plan.embed(plan.pack("F32", rows.view(np.uint8).reshape(-1), len(rows), width, "f32", None), qkv)
    plan.rope_store(qkv, 0, 1)
    plan.attention(qkv, out, 0, 1, head_dim**-0.5)
    plan.select_rows(out, last)
    plan.quantize(last)
    identity = np.eye(head_dim, dtype=np.float32).view(np.uint8).reshape(-1)
    plan.linear([(plan.pack("F32", identity, head_dim, head_dim, "f32", None), -1, logits, 0)])
    unrotated = np.concatenate([np.ones((TOKENS, head_dim // 2)), np.zeros((TOKENS, head_dim // 2))], axis=1)
    plan.rope_table(unrotated.astype(np.float32))
    blocks = TOKENS // 16
    plan.kv_cache([(1, head_dim)], blocks, kv_format)
    every = np.arange(TOKENS, dtype=np.int32)
    tables = np.arange(blocks, dtype=np.int32)[None]
    return plan.run(every, every, np.array([0, TOKENS], np.int32), tables, every, logits)


def alike(kv_format: str, head_dim: int) -> np.ndarray:
    """A vector [head_dim] all of whose integers are the largest: of equal numbers, if it is not turned."""
    ones = np.ones(head_dim, np.float32)
    return ones if kv_format == "q16" else turned(ones)


@pytest.mark.parametrize("head_dim", [32, 512, 576])
@pytest.mark.parametrize("kv_format", ["q16", "q8", "q4"])
@pytest.mark.parametrize("isa", core.instruction_sets())
def test_the_largest_scores(isa: str, kv_format: str, head_dim: int) -> None:
    """All dimensions alike and of one sign: a sum beyond 2^31 would come out as the opposite score."""
    signs = np.where(np.arange(TOKENS) % 2 == 0, 1.0, -1.0)[:, None]
    own = np.tile(alike(kv_format, head_dim), (TOKENS, 1))
    rows = np.concatenate([own * 30, own * signs, own * signs * 7], axis=1).astype(np.float32)
    ours = attended(isa, kv_format, head_dim, rows)
    # That of the keys with the queries' sign.
    np.testing.assert_allclose(ours, 7 * own, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kv_format", ["q16", "q8", "q4"])
@pytest.mark.parametrize("isa", core.instruction_sets())
def test_the_largest_sums_of_values(isa: str, kv_format: str) -> None:
    """Equal weights for 256 equal values."""
    values = np.tile(-5 * alike(kv_format, 64), (TOKENS, 1))
    rows = np.concatenate([np.zeros((TOKENS, 128)), values], axis=1).astype(np.float32)
    np.testing.assert_allclose(attended(isa, kv_format, 64, rows), values, rtol=1e-3, atol=1e-4)
