"""Biases far larger than what tells keys apart, as Qwen 2.5's are: few bits are enough for the latter."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from numpy_reference import NumpyModel
from tiny_models import (
    write_tiny_gemma2,
    write_tiny_glm4,
    write_tiny_llama,
    write_tiny_qwen2,
    write_tiny_qwen3,
)

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, Tensor, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops, plan_tensors
from llm_serving.native.shared_keys import shared_keys

HEAD, KV_HEADS, CONTEXT = 32, 2, 256
SHAPE = {"hidden": 128, "heads": 4, "kv_heads": KV_HEADS, "context": CONTEXT, "rope_base": 1e6, "layers": 1}
IDS = np.random.default_rng(5).integers(0, 250, 200).tolist()
BIAS = "blk.0.attn_k.bias"


def slow_pairs(rotated: int, base: float) -> np.ndarray:
    """Whether a pair of dimensions turns by one rad at most in the whole context; bool [rotated / 2]."""
    return np.array([CONTEXT * base ** (-2 * i / rotated) <= 1 for i in range(rotated // 2)])


def with_bias(checkpoint: Checkpoint, bias: np.ndarray) -> Checkpoint:
    data = bias.astype(np.float32).view(np.uint8)
    tensor = Tensor(BIAS, "F32", (bias.size,), data)
    return dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, BIAS: tensor})


@pytest.fixture
def biased(tmp_path: Any) -> Checkpoint:
    """Three hundred in the slowest dimensions, as of Qwen's first layer, where keys differ by about one."""
    checkpoint = open_checkpoint(write_tiny_qwen2(tmp_path / "m.gguf", kind="F16", **SHAPE))
    signs = np.random.default_rng(1).choice([-300.0, 300.0], (KV_HEADS, 2, HEAD // 2))
    return with_bias(checkpoint, (signs * (np.arange(HEAD // 2) >= HEAD // 2 - 4)).reshape(-1))


def error_of(make_driver: Any, checkpoint: Checkpoint, kv_cache: str) -> float:
    """Of logits against exact attention, as a share of their range; the mean of all positions."""
    exact = make_driver(checkpoint, kv_cache="q16").logits(IDS)
    ours = make_driver(checkpoint, kv_cache=kv_cache).logits(IDS)
    return float((np.abs(ours - exact).max(axis=1) / np.ptp(exact, axis=1)).mean())


@pytest.mark.parametrize(("kv_cache", "limit"), [("q8", 0.01), ("q4", 0.1)])
def test_few_bits_are_enough_for_what_tells_keys_apart(
    biased: Checkpoint, make_driver: Any, monkeypatch: pytest.MonkeyPatch, kv_cache: str, limit: float
) -> None:
    assert error_of(make_driver, biased, kv_cache) < limit
    monkeypatch.setattr(plan_tensors, "shared_keys", lambda plan, checkpoint: {})
    assert error_of(make_driver, biased, kv_cache) > 3 * limit


@pytest.mark.parametrize("kv_cache", ["q8", "q4"])
def test_it_is_what_numpy_computes(biased: Checkpoint, make_driver: Any, kv_cache: str) -> None:
    reference = NumpyModel(biased, quantize_activations=True, kv_format=kv_cache).logits(IDS)
    ours = make_driver(biased, kv_cache=kv_cache).logits(IDS)
    errors = np.abs(ours - reference).max(axis=1) / np.ptp(reference, axis=1)
    assert np.median(errors) < 1e-3
    assert errors.max() < 0.05


def test_exact_keys_keep_it(biased: Checkpoint, make_driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = make_driver(biased, kv_cache="q16").logits(IDS)
    monkeypatch.setattr(plan_tensors, "shared_keys", lambda plan, checkpoint: {})
    assert (make_driver(biased, kv_cache="q16").logits(IDS) == with_it).all()


def test_what_turns_too_far_is_not_shared(tmp_path: Any) -> None:
    checkpoint = open_checkpoint(write_tiny_qwen2(tmp_path / "m.gguf", **SHAPE))
    bias = np.arange(1.0, 1 + KV_HEADS * HEAD)
    checkpoint = with_bias(checkpoint, bias)
    stays = np.tile(slow_pairs(HEAD, 1e6), 2)
    assert 0 < stays.sum() < HEAD
    (shared,) = shared_keys(describe(checkpoint), checkpoint).values()
    assert shared.dtype == np.float32
    assert (shared.reshape(KV_HEADS, HEAD) == bias.reshape(KV_HEADS, HEAD) * stays).all()


def test_what_does_not_turn_is_shared(tmp_path: Any) -> None:
    """GLM 4 turns the first half of a head, stored as pairs."""
    checkpoint = open_checkpoint(write_tiny_glm4(tmp_path / "m.gguf", **SHAPE))
    bias = np.arange(1.0, 1 + KV_HEADS * HEAD).reshape(KV_HEADS, HEAD)
    checkpoint = with_bias(checkpoint, bias.reshape(-1))
    (shared,) = shared_keys(describe(checkpoint), checkpoint).values()
    slow = slow_pairs(HEAD // 2, 1e6)
    halves = np.concatenate([bias[:, 0 : HEAD // 2 : 2] * slow, bias[:, 1 : HEAD // 2 : 2] * slow], axis=1)
    expected = np.concatenate([halves, bias[:, HEAD // 2 :]], axis=1)
    assert (shared.reshape(KV_HEADS, HEAD) == expected).all()


def test_a_magnitude_goes_with_what_turns(biased: Checkpoint) -> None:
    plan = describe(biased)
    longer = dataclasses.replace(plan, rope=dataclasses.replace(plan.rope, magnitude=1.5))
    plain, scaled = (shared_keys(each, biased)[0] for each in (plan, longer))
    assert (scaled == 1.5 * plain).all()
    growing = dataclasses.replace(plan, rope=dataclasses.replace(plan.rope, growth=0.1))
    assert shared_keys(growing, biased) == {}
    still = dataclasses.replace(plan, rope=dataclasses.replace(plan.rope, linear_factor=math.inf))
    assert np.count_nonzero(shared_keys(still, biased)[0]) == np.count_nonzero(plain)


def test_what_is_written_beside_the_keys_is_no_bias_of_theirs(biased: Checkpoint) -> None:
    plan = describe(biased)
    gate = ops.Projection("blk.0.attn_q.weight", "gate", 4 * HEAD, BIAS)
    operations = tuple(
        dataclasses.replace(each, projections=(*each.projections, gate))
        if isinstance(each, ops.Linear) and each.projections[0].target == "qkv"
        else each
        for each in plan.operations
    )
    beside = shared_keys(dataclasses.replace(plan, operations=operations), biased)
    assert (beside[0] == shared_keys(plan, biased)[0]).all()
    without = tuple(
        dataclasses.replace(
            each,
            projections=tuple(dataclasses.replace(p, bias=None) for p in each.projections[:-1]) + (gate,),
        )
        if isinstance(each, ops.Linear) and each.projections[-1] is gate
        else each
        for each in operations
    )
    assert shared_keys(dataclasses.replace(plan, operations=without), biased) == {}


@pytest.mark.parametrize("size", [0, 10, KV_HEADS * HEAD - 1, 5000])
@pytest.mark.parametrize("write", [write_tiny_qwen2, write_tiny_glm4])
def test_a_bias_that_does_not_fit_is_told_as_any_tensor(
    tmp_path: Any, make_driver: Any, write: Any, size: int
) -> None:
    checkpoint = with_bias(open_checkpoint(write(tmp_path / "m.gguf", **SHAPE)), np.ones(size))
    with pytest.raises(
        CheckpointError, match=f"'{BIAS}' has {size} values where {KV_HEADS * HEAD} are needed"
    ):
        make_driver(checkpoint, kv_cache="q4")


@pytest.mark.parametrize("write", [write_tiny_llama, write_tiny_qwen3, write_tiny_gemma2])
def test_keys_without_a_bias_of_their_own_share_nothing(tmp_path: Any, write: Any) -> None:
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", **SHAPE))
    assert shared_keys(describe(checkpoint), checkpoint) == {}


@pytest.mark.parametrize(
    "behind",
    [
        ops.HeadNorm("qkv", 0, 4 * HEAD, 4, None, 1e-6),
        ops.Clamp("qkv", 0, 4 * HEAD, (-1.0, 1.0)),
        ops.Copy("qkv", "qkv"),
        ops.Linear((ops.Projection("blk.0.attn_k.weight", "qkv"),), accumulate=True),
    ],
    ids=lambda each: type(each).__name__,
)
def test_keys_that_are_changed_behind_their_bias_share_nothing(biased: Checkpoint, behind: Any) -> None:
    plan = describe(biased)
    at = next(i for i, each in enumerate(plan.operations) if isinstance(each, ops.RopeStore))
    operations = (*plan.operations[:at], behind, *plan.operations[at:])
    assert shared_keys(dataclasses.replace(plan, operations=operations), biased) == {}


@pytest.mark.parametrize("change", [{"cap": 5.0}, {"sinks": "blk.0.attn_sinks.weight"}], ids=str)
def test_weights_that_depend_on_scores_themselves_keep_it(biased: Checkpoint, change: dict[str, Any]) -> None:
    plan = describe(biased)
    operations = tuple(
        dataclasses.replace(each, **change) if isinstance(each, ops.Attention) else each
        for each in plan.operations
    )
    assert shared_keys(dataclasses.replace(plan, operations=operations), biased) == {}
    assert set(shared_keys(plan, biased)) == {0}
