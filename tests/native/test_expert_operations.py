"""Choosing experts, an expert for all tokens behind its door, and xIELU, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from test_operations import HIDDEN, NAMES, Bench, relative

from llm_serving.native.core import load_core

core = load_core()
EXPERTS, USED, WIDTH = 12, 3, 32
TOKENS = 40


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def within_groups(scores: np.ndarray, count: int, used: int, best: int) -> np.ndarray:
    """Minus infinity for experts of all groups but the best ones."""
    groups = scores.reshape(len(scores), count, -1).copy()
    order = np.argsort(-np.sort(groups, axis=2)[..., -best:].sum(2), axis=1, kind="stable")
    np.put_along_axis(groups, order[:, used:, None], -np.inf, axis=1)
    return groups.reshape(scores.shape)


def among_near(logits: np.ndarray, margin: float) -> np.ndarray:
    """Of the best, of the second without it and so on: softmax over itself and those that are near."""
    weights, left = np.empty((len(logits), USED)), logits.copy()
    for i in range(USED):
        best = left.max(1, keepdims=True)
        is_near = (best - left) / np.maximum(np.abs(logits), best) <= margin
        weights[:, i] = 1 / np.where(is_near, np.exp(left - best), 0).sum(1)
        np.put_along_axis(left, left.argmax(1)[:, None], -np.inf, axis=1)
    return weights


def mixture(
    isa: str,
    *,
    is_sigmoid: bool = False,
    normalized: bool = False,
    corrected: bool = False,
    scale: float,
    groups: tuple[int, int, int] = (1, 1, 1),
    margin: float = 0.0,
    weighted_inputs: bool = False,
) -> tuple:
    """What comes of each token by the plan, and by numpy: experts are single matrices here."""
    bench = Bench(isa, "f32")
    routing = bench.rng.standard_normal((EXPERTS, HIDDEN)).astype(np.float32) * 0.3
    matrices = bench.rng.standard_normal((EXPERTS, WIDTH, HIDDEN)).astype(np.float32)
    correction, corrections = bench.vector(EXPERTS)
    plan, out = bench.plan, bench.plan.buffer(WIDTH)
    router, slots = plan.buffer(EXPERTS), plan.buffer(WIDTH, True)
    plan.quantize(bench.x)
    plan.linear([(bench.pack(np.zeros((WIDTH, HIDDEN), np.float32)), -1, out, 0)])
    plan.linear([(bench.pack(routing), -1, router, 0)])
    plan.route(
        router, USED, normalized, is_sigmoid, correction if corrected else -1, scale, -1, *groups, margin
    )
    plan.gather(bench.x, weighted_inputs)
    plan.expert_linear([[(bench.pack(matrix), -1, slots, 0)] for matrix in matrices])
    plan.combine(slots, out, weighted=not weighted_inputs)
    ids, ours = bench.run([TOKENS], out)
    x = bench.table[ids].astype(np.float64)
    logits = x @ routing.T.astype(np.float64)
    scores = (sigmoid if is_sigmoid else softmax)(logits)
    allowed = within_groups(scores + corrections * corrected, *groups)
    chosen = np.argsort(-allowed, axis=1, kind="stable")[:, :USED]
    weights = np.take_along_axis(scores, chosen, 1)
    if margin:
        weights = among_near(logits, margin)
    if normalized:
        weights /= weights.sum(1, keepdims=True)
    each = np.einsum("ewh,th->tew", matrices, x)
    expected = np.einsum("tu,tuw->tw", weights * scale, np.take_along_axis(each, chosen[..., None], 1))
    return ours, expected


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("is_sigmoid", [True, False])
@pytest.mark.parametrize(("corrected", "scale"), [(True, 2.5), (False, 1.0)])
def test_experts_are_chosen_and_weighted(
    is_sigmoid: bool, normalized: bool, corrected: bool, scale: float
) -> None:
    outputs = []
    for isa in NAMES:
        ours, expected = mixture(
            isa, is_sigmoid=is_sigmoid, normalized=normalized, corrected=corrected, scale=scale
        )
        assert relative(ours, expected) < 1e-6
        outputs.append(ours)
    assert all((out == outputs[0]).all() for out in outputs)


def test_what_experts_read_may_be_weighted() -> None:
    """Instead of what they make, which is the same as long as nothing is bent between."""
    ours, expected = mixture(
        "auto", is_sigmoid=True, normalized=False, corrected=False, scale=1.0, weighted_inputs=True
    )
    assert relative(ours, expected) < 1e-6


@pytest.mark.parametrize("groups", [(4, 2, 1), (3, 1, 1), (6, 4, 2), (4, 1, 2)])
@pytest.mark.parametrize(("is_sigmoid", "corrected"), [(True, True), (True, False), (False, False)])
def test_experts_are_chosen_within_groups(
    groups: tuple[int, int, int], is_sigmoid: bool, corrected: bool
) -> None:
    """As DeepSeek V2 does by the best expert of a group, and V3 by the two best."""
    outputs = []
    for isa in NAMES:
        ours, expected = mixture(
            isa, is_sigmoid=is_sigmoid, normalized=is_sigmoid, corrected=corrected, scale=1.0, groups=groups
        )
        assert relative(ours, expected) < 1e-6
        outputs.append(ours)
    assert all((out == outputs[0]).all() for out in outputs)


@pytest.mark.parametrize("margin", [0.02, 0.5, 3.0])
def test_experts_share_among_those_that_are_near(margin: float) -> None:
    """As Phi's mixtures do (SparseMixer)."""
    outputs = []
    for isa in NAMES:
        ours, expected = mixture(isa, scale=1.5, margin=margin)
        assert relative(ours, expected) < 1e-6
        outputs.append(ours)
    assert all((out == outputs[0]).all() for out in outputs)
    assert relative(outputs[0], mixture("auto", scale=1.5)[0]) > 0.01


@pytest.mark.parametrize(
    ("others", "margin"), [((False, False), -1.0), ((True, False), 0.1), ((False, True), 0.1)]
)
def test_a_margin_is_for_softmax_alone(others: tuple[bool, bool], margin: float) -> None:
    plan = Bench("auto", "f32").plan
    with pytest.raises(ValueError, match="margin"):
        plan.route(plan.buffer(EXPERTS), USED, *others, -1, 1.0, -1, 1, 1, 1, margin)


@pytest.mark.parametrize(
    "groups", [(5, 1, 1), (12, 2, 1), (4, 5, 1), (6, 3, 3), (0, 1, 1), (4, 0, 1), (4, 2, 0)]
)
def test_groups_that_do_not_fit(groups: tuple[int, int, int]) -> None:
    plan = Bench("auto", "f32").plan
    with pytest.raises(ValueError, match="groups of experts"):
        plan.route(plan.buffer(EXPERTS), USED, False, False, -1, 1.0, -1, *groups)


def test_what_is_added_goes_through_a_door() -> None:
    bench = Bench("auto", "f32")
    weights = bench.rng.standard_normal((1, HIDDEN)).astype(np.float32)
    out, door = bench.plan.buffer(HIDDEN), bench.plan.buffer(1)
    bias, biases = bench.vector(HIDDEN)
    bench.plan.copy(bench.x, out)
    bench.plan.quantize(bench.x)
    bench.plan.linear([(bench.pack(weights), -1, door, 0)])
    bench.plan.copy(bench.x, out, bias, True, door)
    ids, ours = bench.run([9], out)
    x = bench.table[ids].astype(np.float64)
    assert relative(ours, x + sigmoid(x @ weights.T) * (x + biases)) < 1e-6
    with pytest.raises(ValueError, match="one number a row"):
        bench.plan.copy(bench.x, out, bias, True, bench.x)


def test_gates_of_relu() -> None:
    outputs = []
    for isa in NAMES:
        bench = Bench(isa, "f32")
        y = bench.plan.buffer(32)
        bench.plan.gated(bench.x, 32, core.Gate.RELU)
        bench.plan.linear([(bench.pack(np.eye(32, dtype=np.float32)), -1, y, 0)])
        ids, ours = bench.run([TOKENS], y)
        gate, up = bench.table[ids][:, :32], bench.table[ids][:, 32:64]
        np.testing.assert_array_equal(ours, np.maximum(gate, 0) * up)
        outputs.append(ours)
    assert all((out == outputs[0]).all() for out in outputs)


@pytest.mark.parametrize(("positive", "negative", "beta"), [(1.0, 0.0, 0.0), (1.3, 0.9, 0.5)])
def test_xielu(positive: float, negative: float, beta: float) -> None:
    """Its first numbers make it the square of relu."""
    outputs = []
    for isa in NAMES:
        bench = Bench(isa, "f32")
        y = bench.plan.buffer(HIDDEN)
        bench.plan.xielu(bench.x, positive, negative, beta)
        bench.plan.linear([(bench.pack(np.eye(HIDDEN, dtype=np.float32)), -1, y, 0)])
        ids, ours = bench.run([TOKENS], y)
        x = bench.table[ids].astype(np.float64)
        expected = np.where(x > 0, positive * x * x, negative * (np.expm1(x) - x)) + beta * x
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
        outputs.append(ours)
    assert all((out == outputs[0]).all() for out in outputs)
