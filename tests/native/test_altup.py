"""Streams of rows, magnitudes that match, and sparse gates, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from test_operations import HIDDEN, NAMES, VOCAB, Bench, relative

from llm_serving.native.core import load_core

core = load_core()
STREAMS, TOKENS = 4, 9


class Streams(Bench):
    """Further rows of a token, each made of its embedding by a matrix, and what routes them."""

    def __init__(self, isa: str) -> None:
        super().__init__(isa, "f32")
        makers = [self.rng.standard_normal((HIDDEN, HIDDEN)).astype(np.float32) * 0.1 for _ in range(STREAMS)]
        routing = self.rng.standard_normal((STREAMS, HIDDEN)).astype(np.float32) * 0.1
        self.streams = [self.x, *(self.plan.buffer(HIDDEN) for _ in makers[1:])]
        self.source, self.router = self.plan.buffer(HIDDEN), self.plan.buffer(STREAMS)
        targets = [self.source, *self.streams[1:]]
        self.plan.quantize(self.x)
        self.plan.linear(
            [
                *((self.pack(m), -1, to, 0) for m, to in zip(makers, targets, strict=True)),
                (self.pack(routing), -1, self.router, 0),
            ]
        )
        ids = np.random.default_rng(3).integers(0, VOCAB, TOKENS)  # as `run` draws them
        first = self.table[ids].astype(np.float64)
        made = [first @ matrix.T.astype(np.float64) for matrix in makers]
        self.rows = np.stack([first, *made[1:]])
        self.found = made[0]
        self.opening = np.tanh(first @ routing.T.astype(np.float64))

    def outputs(self, buffers: list[int]) -> np.ndarray:
        return np.stack([self.run([TOKENS], buffer)[1] for buffer in buffers])


def test_streams_are_predicted_from_each_other() -> None:
    all_of_them = []
    for isa in NAMES:
        bench = Streams(isa)
        weights, values = bench.vector(STREAMS**3)
        bench.plan.altup_predict(bench.streams, bench.router, weights)
        mixes = (bench.opening @ values.reshape(STREAMS**2, STREAMS).T).reshape(TOKENS, STREAMS, STREAMS)
        expected = bench.rows + np.einsum("tji,itw->jtw", mixes, bench.rows)
        ours = bench.outputs(bench.streams)
        assert relative(ours, expected) < 1e-6
        all_of_them.append(ours)
    assert all((ours == all_of_them[0]).all() for ours in all_of_them)


def test_streams_are_corrected_by_what_the_first_became() -> None:
    all_of_them = []
    for isa in NAMES:
        bench = Streams(isa)
        weights, values = bench.vector(STREAMS**2)
        bench.plan.altup_correct(bench.streams, bench.source, bench.router, weights)
        gains = 1 + bench.opening @ values.reshape(STREAMS, STREAMS).T
        expected = bench.rows + gains.T[:, :, None] * (bench.found - bench.rows[0])
        ours = bench.outputs(bench.streams)
        assert relative(ours, expected) < 1e-6
        all_of_them.append(ours)
    assert all((ours == all_of_them[0]).all() for ours in all_of_them)


@pytest.mark.parametrize("least", [1e-5, 50.0])
def test_magnitudes_match(least: float) -> None:
    bench = Streams("auto")
    bench.plan.match_magnitude(bench.source, bench.x, least)
    squares = np.maximum(np.mean(bench.found**2, 1, keepdims=True), least)
    wanted = np.sqrt(np.mean(bench.rows[0] ** 2, 1, keepdims=True))
    (ours,) = bench.outputs([bench.source])
    assert relative(ours, bench.found * wanted / np.sqrt(squares)) < 1e-6


@pytest.mark.parametrize("deviations", [1.6448536, -0.5])
def test_gates_far_above_their_mean_stay(deviations: float) -> None:
    bench, cols = Bench("auto", "f32"), HIDDEN - 16
    bench.plan.gaussian_top_k(bench.x, cols, deviations)
    ids, ours = bench.run([TOKENS], bench.x)
    expected = bench.table[ids].astype(np.float64)
    gates = expected[:, :cols]
    cut = gates.mean(1, keepdims=True) + deviations * gates.std(1, keepdims=True)
    expected[:, :cols] = np.maximum(gates - cut, 0)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert 0.01 < (ours[:, :cols] > 0).mean() < 0.8


def test_a_copy_may_scale_each_column() -> None:
    bench = Bench("auto", "f32")
    scale, values = bench.vector(HIDDEN)
    target = bench.plan.buffer(HIDDEN)
    bench.plan.copy(bench.x, target)
    bench.plan.copy(bench.x, target, accumulate=True, scale=scale)
    ids, ours = bench.run([TOKENS], target)
    np.testing.assert_allclose(ours, 2 * bench.table[ids] * values, rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    bench = Streams("auto")
    plan, narrow = bench.plan, bench.plan.buffer(HIDDEN - 8)
    mixes, _ = bench.vector(STREAMS**3)
    gains, _ = bench.vector(STREAMS**2)
    with pytest.raises(ValueError, match="2 to 8 streams"):
        plan.altup_predict(bench.streams[:1], bench.router, mixes)
    with pytest.raises(ValueError, match="2 to 8 streams"):
        plan.altup_predict(3 * bench.streams, bench.router, mixes)
    with pytest.raises(ValueError, match="equally wide"):
        plan.altup_predict([*bench.streams[1:], narrow], bench.router, mixes)
    with pytest.raises(ValueError, match="router"):
        plan.altup_predict(bench.streams[1:], bench.router, mixes)
    with pytest.raises(ValueError, match="coefficients"):
        plan.altup_predict(bench.streams, bench.router, gains)
    with pytest.raises(ValueError, match="coefficients"):
        plan.altup_correct(bench.streams, bench.source, bench.router, mixes)
    with pytest.raises(ValueError, match="as wide as they are"):
        plan.altup_correct(bench.streams, narrow, bench.router, gains)
    with pytest.raises(ValueError, match="positive"):
        plan.match_magnitude(bench.source, bench.x, 0.0)
    with pytest.raises(ValueError, match="no such columns"):
        plan.gaussian_top_k(bench.x, HIDDEN + 8, 1.0)
    with pytest.raises(ValueError, match="finite"):
        plan.gaussian_top_k(bench.x, HIDDEN, float("-inf"))
    with pytest.raises(ValueError, match="does not fit"):
        plan.copy(bench.x, bench.source, scale=gains)
