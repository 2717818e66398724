"""Gated DeltaNet's operations against their definition in numpy, and themselves, however steps are cut."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from recurrent_layer import (
    TOKENS,
    RecurrentLayer,
    check_cuts,
    check_instruction_sets_and_threads,
    check_sequences_do_not_meet,
    core,
    random_rows,
)

from llm_serving.native.delta_net import TAPS, DeltaHeads

SHAPES = {
    "one-each": DeltaHeads(keys=3, values=3, key_dim=32, value_dim=64),
    "grouped": DeltaHeads(keys=2, values=6, key_dim=48, value_dim=32),
    "tiled": DeltaHeads(keys=2, values=10, key_dim=16, value_dim=16, tiled=True),
    "large": DeltaHeads(keys=1, values=2, key_dim=128, value_dim=128),
}


class Layer(RecurrentLayer):
    def __init__(self, heads: DeltaHeads, isa: str = "auto", threads: int = 1) -> None:
        rng = np.random.default_rng(3)
        self.heads = heads
        self.taps = rng.normal(0.2, 0.5, (heads.channels, TAPS)).astype(np.float32)
        self.rates = -rng.uniform(0.01, 3, heads.values).astype(np.float32)
        self.bias = rng.normal(-1, 2, heads.values).astype(np.float32)
        super().__init__(heads.width, heads.outputs, isa, threads)
        sizes = (heads.keys, heads.values, heads.key_dim, heads.value_dim)
        vectors = (self.plan.vector(v) for v in (self.taps.T.reshape(-1), self.rates, self.bias))
        self.plan.delta_inputs(self.mixed, *sizes, *vectors)
        self.plan.delta_rule(self.mixed, self.found, *sizes, heads.tiled)
        self.plan.states(4)


def rows_of(heads: DeltaHeads, count: int = TOKENS, seed: int = 1) -> np.ndarray:
    return random_rows(heads.width, count, seed)


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
    check_instruction_sets_and_threads(partial(Layer, SHAPES[shape]), rows_of(SHAPES[shape]))


@pytest.mark.parametrize("isa", core.instruction_sets())
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_however_a_text_is_cut(shape: str, isa: str) -> None:
    check_cuts(partial(Layer, SHAPES[shape]), rows_of(SHAPES[shape]), isa)


@pytest.mark.parametrize("shape", SHAPES)
def test_sequences_do_not_meet(shape: str) -> None:
    heads = SHAPES[shape]
    check_sequences_do_not_meet(partial(Layer, heads), rows_of(heads, 40), rows_of(heads, 30, seed=2))


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
