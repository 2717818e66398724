"""Gated DeltaNet's operations against their definition in numpy, and themselves, however steps are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_serving.native.core import load_core
from llm_serving.native.delta_net import TAPS, DeltaHeads

core = load_core()
TOKENS = 70
SHAPES = {
    "one-each": DeltaHeads(keys=3, values=3, key_dim=32, value_dim=64),
    "grouped": DeltaHeads(keys=2, values=6, key_dim=48, value_dim=32),
    "tiled": DeltaHeads(keys=2, values=10, key_dim=16, value_dim=16, tiled=True),
    "large": DeltaHeads(keys=1, values=2, key_dim=128, value_dim=128),
}


class Layer:
    """The operations between a layer's matrices, on rows that are given; two sequences at most."""

    def __init__(self, heads: DeltaHeads, isa: str = "auto", threads: int = 1) -> None:
        rng = np.random.default_rng(3)
        self.heads = heads
        self.taps = rng.normal(0.2, 0.5, (heads.channels, TAPS)).astype(np.float32)
        self.rates = -rng.uniform(0.01, 3, heads.values).astype(np.float32)
        self.bias = rng.normal(-1, 2, heads.values).astype(np.float32)
        self.plan: Any = core.Plan(threads, isa, TOKENS, TOKENS)
        mixed, found = self.plan.buffer(heads.width), self.plan.buffer(heads.outputs)
        self.plan.given(mixed)
        sizes = (heads.keys, heads.values, heads.key_dim, heads.value_dim)
        vectors = (self.plan.vector(v) for v in (self.taps.T.reshape(-1), self.rates, self.bias))
        self.plan.delta_inputs(mixed, *sizes, *vectors)
        self.plan.delta_rule(mixed, found, *sizes, heads.tiled)
        self.plan.states(4)
        self._found = found

    def run(self, rows: np.ndarray, first: list[int], segments: list[tuple[int, int, int]]) -> np.ndarray:
        """Rows of sequences that go on at positions `first`; of several, each has one segment."""
        count = len(rows)
        ends = [end for end, _, _ in segments] if len(first) > 1 else [count]
        starts = np.array([0, *ends], np.int32)
        positions = [np.arange(end - begin) + at for begin, end, at in zip(starts, ends, first, strict=False)]
        found = self.plan.run(
            np.zeros(count, np.int32),
            np.concatenate(positions).astype(np.int32),
            starts,
            np.zeros((len(first), 1), np.int32),
            np.zeros(0, np.int32),
            self._found,
            rows,
            np.arange(count, dtype=np.int32),
            state_segments=np.array(segments, np.int32),
        )
        return np.array(found)


def rows_of(heads: DeltaHeads, count: int = TOKENS, seed: int = 1) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(0, 1, (count, heads.width))
    return rows.astype(np.float32)


def defined(layer: Layer, rows: np.ndarray) -> np.ndarray:
    """The paper's recurrence, in float64."""
    heads = layer.heads
    x = np.concatenate([np.zeros((TAPS - 1, heads.channels)), rows[:, : heads.channels].astype(np.float64)])
    conv = sum(x[k : k + len(rows)] * layer.taps[:, k] for k in range(TAPS))
    conv = conv / (1 + np.exp(-conv))
    query, key, value = np.split(conv, np.cumsum([heads.keys * heads.key_dim] * 2), axis=1)
    query, key = (part.reshape(len(rows), heads.keys, heads.key_dim) for part in (query, key))
    query, key = (part / np.sqrt((part**2).sum(-1, keepdims=True) + 1e-6) for part in (query, key))
    value = value.reshape(len(rows), heads.values, heads.value_dim)
    beta, decay = np.split(rows[:, -2 * heads.values :].astype(np.float64), 2, axis=1)
    beta = 1 / (1 + np.exp(-beta))
    decay = np.exp(layer.rates * np.logaddexp(0, decay + layer.bias))
    out = np.zeros((len(rows), heads.values, heads.value_dim))
    for h in range(heads.values):
        k = h % heads.keys if heads.tiled else h // (heads.values // heads.keys)
        state = np.zeros((heads.key_dim, heads.value_dim))
        for t in range(len(rows)):
            state = state * decay[t, h]
            state += np.outer(key[t, k], (value[t, h] - state.T @ key[t, k]) * beta[t, h])
            out[t, h] = state.T @ query[t, k] / np.sqrt(heads.key_dim)
    return out.reshape(len(rows), -1)


@pytest.mark.parametrize("isa", core.instruction_sets())
@pytest.mark.parametrize("shape", SHAPES)
def test_definition(shape: str, isa: str) -> None:
    layer = Layer(SHAPES[shape], isa)
    rows = rows_of(layer.heads)
    expected = defined(layer, rows)
    ours = layer.run(rows, [0], [(TOKENS, -1, 0)])
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(ours, expected, atol=2e-6 * np.abs(expected).max(), rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_of_all_instruction_sets_and_threads(shape: str) -> None:
    rows = rows_of(SHAPES[shape])
    first, *others = (
        Layer(SHAPES[shape], isa, threads).run(rows, [0], [(TOKENS, -1, 0)])
        for isa in core.instruction_sets()
        for threads in (1, 3)
    )
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_however_a_text_is_cut(shape: str) -> None:
    """Into steps, and within a step into segments that leave the state in other slots."""
    heads = SHAPES[shape]
    rows = rows_of(heads)
    whole = Layer(heads).run(rows, [0], [(TOKENS, -1, 0)])
    layer = Layer(heads)
    parts = [
        layer.run(rows[:1], [0], [(1, -1, 2)]),
        layer.run(rows[1:30], [1], [(2, 2, 1), (16, 1, 1), (29, 1, 3)]),
    ]
    parts += [layer.run(rows[t : t + 1], [t], [(1, 3, 3)]) for t in range(30, 40)]
    parts.append(layer.run(rows[40:], [40], [(30, 3, 0)]))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    again = layer.run(rows[17:30], [17], [(13, 1, 2)])  # from the state that was left behind seventeen
    np.testing.assert_array_equal(again, whole[17:30])


@pytest.mark.parametrize("shape", SHAPES)
def test_sequences_do_not_meet(shape: str) -> None:
    heads = SHAPES[shape]
    one, other = rows_of(heads, 40), rows_of(heads, 30, seed=2)
    layer = Layer(heads, threads=2)
    both = layer.run(np.concatenate([one[:25], other]), [0, 0], [(25, -1, 1), (55, -1, 0)])
    rest = layer.run(one[25:], [25], [(15, 1, 1)])
    alone = Layer(heads).run(one, [0], [(40, -1, 0)])
    np.testing.assert_array_equal(np.concatenate([both[:25], rest]), alone)
    np.testing.assert_array_equal(both[25:], Layer(heads).run(other, [0], [(30, -1, 0)]))


def test_extremes_stay_numbers() -> None:
    """Gates far beyond what sigmoid and softplus tell apart, and rows of zeros."""
    heads = SHAPES["grouped"]
    rows = rows_of(heads)
    rows[::3] = 0
    rows[::2, -2 * heads.values :] *= 1e4
    layer = Layer(heads)
    ours = layer.run(rows, [0], [(TOKENS, -1, 0)])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(ours, defined(layer, rows), atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((2, 3, 32, 32), "a whole number of value heads"),
        ((2, 4, 24, 32), "16 dimensions, or a multiple of 32"),
        ((2, 4, 32, 48), "16 dimensions, or a multiple of 32"),
        ((2, 4, 32, 64), "do not fit the buffer"),
    ],
)
def test_shapes_that_kernels_do_not_take(sizes: tuple[int, ...], message: str) -> None:
    plan = core.Plan(1, "auto", 8, 8)
    vector = plan.vector(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=message):
        plan.delta_inputs(plan.buffer(DeltaHeads(2, 4, 32, 32).width), *sizes, vector, vector, vector)
