"""Attention of encoders by tiles of bfloat16, beside that of f32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_serving.native.core import load_core

core = load_core()
pytestmark = pytest.mark.skipif(not core.tile_set(), reason="this CPU has no tiles of bfloat16")


class Heads:
    """Attention alone: rows of a table are queries, keys and values, and texts follow each other."""

    def __init__(
        self, isa: str, rows: np.ndarray, heads: int, kv_heads: int, head_dim: int, **options: Any
    ) -> None:
        tokens, width = rows.shape
        self.plan: Any = core.Plan(2, isa, tokens, tokens, core.Side.ENCODERS)
        qkv, self.out = self.plan.buffer(width), self.plan.buffer(heads * head_dim)
        table = rows.astype(np.float32).view(np.uint8).reshape(-1)
        self.plan.embed(self.plan.pack("F32", table, tokens, width, "f32", None), qkv)
        falling = options.pop("falling", 0.0)
        if falling:
            distances = np.arange(1 - tokens, tokens + 17)
            slopes = falling * np.arange(1, heads + 1 if options.get("bias_per_head") else 2)
            biases = -slopes[:, None] * np.abs(distances)
            options["bias"] = self.plan.vector(biases.astype(np.float32).reshape(-1))
        self.plan.encoder_attention(qkv, self.out, heads, kv_heads, head_dim**-0.5, **options)

    def run(self, lengths: list[int], first: int = 0) -> np.ndarray:
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
        tables, none = np.zeros((len(lengths), 0), np.int32), np.zeros(0, np.int32)
        ids = np.arange(first, first + starts[-1], dtype=np.int32)
        rows: np.ndarray = self.plan.run(ids, positions, starts, tables, none, self.out).copy()
        return rows


def rows_of(tokens: int, width: int) -> np.ndarray:
    """Of as many columns as a table may have: what is more than `width` nobody reads."""
    return np.random.default_rng(tokens).standard_normal((tokens, -(-width // 32) * 32))


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Numbers of 8 bits: half a unit in the last place is 2^-9."""
    return bool(np.isfinite(ours).all() and np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max())


@pytest.mark.parametrize("head_dim", [8, 24, 32, 40, 64, 72, 128])
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 33, 64, 255, 257, 600])
def test_sizes(tokens: int, head_dim: int) -> None:
    rows = rows_of(tokens, 6 * head_dim)
    tiles, exact = (Heads(isa, rows, 2, 2, head_dim).run([tokens]) for isa in ("amx", "scalar"))
    assert close(tiles, exact)


@pytest.mark.parametrize(
    "options",
    [
        {"causal": True},
        {"falling": 0.3},
        {"falling": 0.1, "bias_per_head": True},
        {"causal": True, "falling": 0.05},
        {"whole": True},
    ],
)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_ways_to_look(kv_heads: int, options: dict[str, Any]) -> None:
    rows = rows_of(530, (4 + 2 * kv_heads) * 32)
    tiles, exact = (Heads(isa, rows, 4, kv_heads, 32, **options).run([300, 230]) for isa in ("amx", "scalar"))
    assert close(tiles, exact)


@pytest.mark.parametrize("causal", [False, True])
def test_texts_do_not_depend_on_each_other(causal: bool) -> None:
    """Bit for bit, and each text has what it has alone."""
    rows, lengths = rows_of(400, 6 * 40), [7, 290, 16, 87]
    heads = Heads("amx", rows, 2, 2, 40, causal=causal)
    together = heads.run(lengths)
    first = 0
    for length in lengths:
        alone = heads.run([length], first)
        assert (alone.view(np.uint32) == together[first : first + length].view(np.uint32)).all()
        first += length


def test_more_queries_than_a_tile_has() -> None:
    """A long text's heads are cut, and each part lays keys and values out anew."""
    rows = rows_of(2100, 6 * 32)
    tiles, exact = (Heads(isa, rows, 2, 2, 32).run([2100]) for isa in ("amx", core.instruction_sets()[0]))
    assert close(tiles, exact)


def test_the_largest_scores() -> None:
    """One key that a query sees alone beside many it does not."""
    rows = rows_of(64, 3 * 32)
    rows[:, :64] *= 60
    tiles, exact = (Heads(isa, rows, 1, 1, 32).run([64]) for isa in ("amx", "scalar"))
    assert np.isfinite(tiles).all()
    assert (np.abs(tiles - exact).max(axis=1) < 0.1).mean() > 0.9  # where two keys are not equally near
