"""Mamba-2's operations against their definition in numpy, and themselves, however steps are cut."""

from __future__ import annotations

from functools import partial
from typing import Any

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

from llm_serving.native.delta_net import TAPS
from llm_serving.native.mamba import MambaHeads

EPSILON = 1e-5
SHAPES = {
    "usual": MambaHeads(count=4, dim=64, groups=1, state=128),
    "groups": MambaHeads(count=6, dim=32, groups=2, state=24),
    "small": MambaHeads(count=14, dim=16, groups=7, state=8),
    "odd": MambaHeads(count=2, dim=80, groups=1, state=40),
}


class Layer(RecurrentLayer):
    def __init__(self, heads: MambaHeads, isa: str = "auto", threads: int = 1, biased: bool = True) -> None:
        rng = np.random.default_rng(3)
        self.heads = heads
        self.taps = rng.normal(0.2, 0.5, (heads.channels, TAPS)).astype(np.float32)
        self.shift = rng.normal(0, 0.5, heads.channels).astype(np.float32) * np.float32(biased)
        self.bias = rng.normal(-1, 2, heads.count).astype(np.float32)
        self.rates = -rng.uniform(0.01, 3, heads.count).astype(np.float32)
        self.skips = rng.normal(0, 1, heads.count).astype(np.float32)
        super().__init__(heads.width, heads.inner, isa, threads)
        sizes = (heads.count, heads.dim, heads.groups, heads.state)
        shift = self.plan.vector(self.shift) if biased else -1
        taps, bias = self.plan.vector(self.taps.T.reshape(-1)), self.plan.vector(self.bias)
        self.plan.mamba_inputs(self.mixed, *sizes, taps, shift, bias)
        rates, skips = self.plan.vector(self.rates), self.plan.vector(self.skips)
        self.plan.mamba_scan(self.mixed, self.found, *sizes, rates, skips)
        self.plan.states(4)


def rows_of(heads: MambaHeads, count: int = TOKENS, seed: int = 1) -> np.ndarray:
    return random_rows(heads.width, count, seed)


def defined(layer: Layer, rows: np.ndarray) -> np.ndarray:
    """The paper's recurrence, in float64."""
    heads, count = layer.heads, len(rows)
    mixed = rows[:, heads.inner : heads.inner + heads.channels].astype(np.float64)
    padded = np.concatenate([np.zeros((TAPS - 1, heads.channels)), mixed])
    conv = sum(padded[k : k + count] * layer.taps[:, k] for k in range(TAPS)) + layer.shift
    conv = conv / (1 + np.exp(-conv))
    x, b, c = np.split(conv, [heads.inner, heads.inner + heads.groups * heads.state], axis=1)
    x = x.reshape(count, heads.count, heads.dim)
    b, c = (part.reshape(count, heads.groups, heads.state) for part in (b, c))
    steps = np.logaddexp(0, rows[:, -heads.count :].astype(np.float64) + layer.bias)
    out = np.zeros(x.shape)
    for h in range(heads.count):
        group, state = h // (heads.count // heads.groups), np.zeros((heads.dim, heads.state))
        for t in range(count):
            state = np.exp(layer.rates[h] * steps[t, h]) * state
            state += steps[t, h] * np.outer(x[t, h], b[t, group])
            out[t, h] = state @ c[t, group] + layer.skips[h] * x[t, h]
    return out.reshape(count, -1)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("isa", core.instruction_sets())
@pytest.mark.parametrize("shape", SHAPES)
def test_definition(shape: str, isa: str, biased: bool) -> None:
    layer = Layer(SHAPES[shape], isa, biased=biased)
    rows = rows_of(layer.heads)
    expected = defined(layer, rows)
    ours = layer.run(rows, [0], [(TOKENS, -1, 0)])
    assert np.abs(expected).max() > 1
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
    """Steps far beyond what softplus tells apart, and rows of zeros."""
    heads = SHAPES["groups"]
    rows = rows_of(heads)
    rows[::3] = 0
    rows[::2, -heads.count :] *= 1e3
    layer = Layer(heads)
    ours, expected = layer.run(rows, [0], [(TOKENS, -1, 0)]), defined(layer, rows)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def gated(
    gate_first: bool, weight: np.ndarray, rows: np.ndarray, gates: np.ndarray, group: int
) -> np.ndarray:
    """Activations of f32, by a matrix that changes nothing."""
    width = rows.shape[1]
    plan: Any = core.Plan(1, "auto", len(rows), len(rows))
    both, found, out = plan.buffer(2 * width), plan.buffer(width), plan.buffer(width)
    plan.given(both)
    plan.quantize(both, -1, -1, 0.0)

    def same(columns: int) -> int:
        """The last `width` of so many numbers."""
        matrix = np.eye(columns, dtype=np.float32)[columns - width :]
        return int(plan.pack("F32", matrix.view(np.uint8).reshape(-1), width, columns, "f32", None))

    plan.linear([(same(2 * width), -1, found, 0)])
    plan.output_gate(found, both, 0, "silu", plan.vector(weight), EPSILON, group, gate_first)
    plan.linear([(same(width), -1, out, 0)])
    given = np.concatenate([gates, rows], axis=1)
    count = np.arange(len(rows), dtype=np.int32)
    starts, tables = np.array([0, len(rows)], np.int32), np.zeros((1, 1), np.int32)
    nothing = np.zeros(0, np.int32)
    return np.array(
        plan.run(np.zeros(len(rows), np.int32), count, starts, tables, nothing, out, given, count)
    )


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("group", [32, 64, 192])
def test_gates_before_and_behind_the_norm(gate_first: bool, group: int) -> None:
    rng = np.random.default_rng(5)
    rows, gates = (rng.normal(0, 1, (6, 192)).astype(np.float32) for _ in range(2))
    weight = rng.normal(1, 0.3, 192).astype(np.float32)

    def norm(x: np.ndarray) -> np.ndarray:
        parts = x.reshape(len(x), -1, group)
        parts = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + EPSILON)
        return parts.reshape(x.shape) * weight

    opened = gates / (1 + np.exp(-gates.astype(np.float64)))
    expected = norm(rows * opened) if gate_first else norm(rows) * opened
    np.testing.assert_allclose(gated(gate_first, weight, rows, gates, group), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((5, 32, 2, 24), "a whole number of Mamba heads"),
        ((6, 24, 2, 24), "a multiple of 16 dimensions"),
        ((6, 32, 2, 20), "a multiple of 16 dimensions"),
        ((6, 32, 2, 520), "a multiple of 16 dimensions"),
        ((6, 32, 0, 24), "a whole number of Mamba heads"),
        ((6, 32, 2, 32), "do not fit the buffer"),
        ((6, 32, 2, 24), "4 taps for each channel"),
    ],
)
def test_shapes_that_kernels_do_not_take(sizes: tuple[int, ...], message: str) -> None:
    plan = core.Plan(1, "auto", 8, 8)
    vector = plan.vector(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=message):
        plan.mamba_inputs(plan.buffer(SHAPES["groups"].width), *sizes, vector, -1, vector)
