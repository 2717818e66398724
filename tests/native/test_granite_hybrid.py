"""Granite 4's hybrids: Mamba-2 beside attention, dense and with experts, in files and in directories."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence
from tiny_granite_hybrid import write_granite_hybrid_directory, write_tiny_granite_hybrid
from tiny_models import SMALLEST_VOCAB

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

IDS = np.random.default_rng(4).integers(0, SMALLEST_VOCAB, 200).tolist()
MIXTURE = {"experts": 6, "used": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(
        write_tiny_granite_hybrid(tmp_path_factory.mktemp("model") / "m.gguf", kind="Q8_0")
    )


def with_keys(checkpoint: Checkpoint, keys: dict[str, Any]) -> Checkpoint:
    named = {f"granitehybrid.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


@pytest.mark.parametrize("quantization", ["auto", "f32"])
@pytest.mark.parametrize("shape", [{}, {"rotates": True, "tied": False}, MIXTURE], ids=str)
def test_directory_and_file_agree(
    tmp_path: Path, make_driver, shape: dict[str, Any], quantization: str
) -> None:
    """But for what the logarithm of rates, and taking it back, rounds off."""
    gguf = write_tiny_granite_hybrid(tmp_path / "m.gguf", kind="F32", **shape)
    directory = write_granite_hybrid_directory(tmp_path / "d", gguf)
    ours, expected = (
        make_driver(open_checkpoint(path), quantization=quantization).logits(IDS[:60])
        for path in (directory, gguf)
    )
    assert np.ptp(expected) > 5
    np.testing.assert_allclose(
        ours, expected, atol=(0.02 if quantization == "auto" else 1e-3) * np.ptp(expected)
    )


@pytest.mark.parametrize("shape", [{}, MIXTURE], ids=str)
def test_chunks_threads_and_instruction_sets(tmp_path: Path, make_driver, shape: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(write_tiny_granite_hybrid(tmp_path / "m.gguf", kind="Q4_0", **shape))
    expected = make_driver(checkpoint).logits(IDS)
    for chunk, threads, isa in ((1, 1, "auto"), (7, 2, "auto"), (16, 3, "scalar"), (200, 2, "scalar")):
        driver = make_driver(checkpoint, threads=threads, isa=isa, seed=chunk)
        np.testing.assert_array_equal(driver.logits(IDS, chunk), expected)


def test_company(checkpoint: Checkpoint, make_driver) -> None:
    driver = make_driver(checkpoint, threads=2)
    expected = driver.logits(IDS[:80])
    one, others = DrivenSequence(), [DrivenSequence() for _ in range(3)]
    parts = [driver.step([(others[0], IDS[100:140]), (one, IDS[:50]), (others[1], IDS[60:61])])[40:90]]
    for t in range(50, 80):
        batch = [(other, [t + i]) for i, other in enumerate(others)]
        parts.append(driver.step([*batch[:1], (one, IDS[t : t + 1]), *batch[1:]])[1:2])
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_plan(checkpoint: Checkpoint, make_driver) -> None:
    plan = describe(checkpoint)
    kinds = [type(op) for op in plan.operations]
    assert (len(plan.kv), kinds.count(ops.Attention), kinds.count(ops.MambaScan)) == (1, 1, 3)
    assert [op.layer for op in plan.operations if isinstance(op, ops.Attention)] == [0]
    assert plan.state_floats == 3 * (3 * 224 + 128 * 24)
    stored = [op.rope for op in plan.operations if isinstance(op, ops.RopeStore)]
    assert stored == [plan.rope.still]


def test_attention_alone_is_of_the_family(tmp_path: Path) -> None:
    gguf = write_tiny_granite_hybrid(tmp_path / "m.gguf", kind="F32")
    directory = write_granite_hybrid_directory(
        tmp_path / "d", gguf, layer_types=["full_attention"] * 4, position_embedding_type="rope"
    )
    plan = describe(open_checkpoint(directory))
    assert (len(plan.kv), plan.state_floats) == (4, 0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ssm.conv_kernel": 3}, "convolution of 3 tokens"),
        ({"ssm.time_step_rank": 5}, "5 Mamba heads of size 25 in 2 groups"),
        ({"ssm.group_count": 3}, "in 3 groups"),
        ({"ssm.state_size": 20}, "states of 20"),
        ({"ssm.state_size": 32}, "no rows that stand 388 by 388"),
        ({"ssm.inner_size": None}, "'granitehybrid.ssm.inner_size'"),
        ({"attention.head_count_kv": 2}, "4 times 0 or one number"),
        ({"attention.head_count_kv": np.zeros(4, np.int32)}, "4 times 0 or one number"),
        ({"residual_scale": 1e9}, "scale of 1e.09"),
        ({"rope.scaling.finetuned": 7}, "'granitehybrid.rope.scaling.finetuned'"),
    ],
)
def test_files_that_are_not_run(
    checkpoint: Checkpoint, make_driver, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        make_driver(with_keys(checkpoint, keys))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attention_bias": True}, "'attention_bias'"),
        ({"hidden_act": "gelu"}, "'hidden_act'"),
        ({"layer_types": ["mamba"] * 3}, "'layer_types' .* list of 4 times"),
        ({"layer_types": ["mamba"] * 4}, "No layer of .* is attention"),
        ({"layer_types": ["mamba", "mamba", ["attention"], "mamba"]}, "'layer_types' .* list of 4 times"),
        ({"layer_types": None}, "'layers_block_type' .* list of 4 times"),
        ({"mamba_d_conv": 8}, "convolution of 8 tokens"),
        ({"mamba_d_head": 64}, "4 Mamba heads of size 64 in 2 groups, 128 in all"),
        ({"mamba_expand": 3}, "192 in all"),
        ({"mamba_n_groups": 0}, "'mamba_n_groups' .* positive integer"),
        ({"mamba_n_heads": "4"}, "'mamba_n_heads' .* positive integer"),
        ({"mamba_d_state": 1000}, "states of 1000"),
        ({"mamba_proj_bias": True}, "'mamba_proj_bias'"),
        ({"mamba_conv_bias": "no"}, "'mamba_conv_bias'"),
        ({"num_local_experts": 3}, "'num_experts_per_tok' .* positive integer"),
        ({"num_local_experts": 3, "num_experts_per_tok": 2}, "no tensor .*block_sparse_moe.router.layer"),
        ({"num_local_experts": True}, "'num_local_experts' .* positive integer"),
        ({"position_embedding_type": "alibi"}, "'position_embedding_type'"),
        ({"shared_intermediate_size": -1}, "'shared_intermediate_size'"),
        ({"time_step_limit": [0.0, 0.1]}, "'time_step_limit'"),
        ({"time_step_limit": 3}, "'time_step_limit'"),
    ],
)
def test_directories_that_are_not_run(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    gguf = write_tiny_granite_hybrid(tmp_path / "m.gguf", kind="F32")
    directory = write_granite_hybrid_directory(tmp_path / "d", gguf, **config)
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))


@pytest.mark.parametrize("limit", [[0.0, float("inf")], [0.0, {"__float__": "Infinity"}], None])
def test_steps_without_bounds(tmp_path: Path, limit: object) -> None:
    gguf = write_tiny_granite_hybrid(tmp_path / "m.gguf", kind="F32")
    directory = write_granite_hybrid_directory(tmp_path / "d", gguf, time_step_limit=limit)
    assert describe(open_checkpoint(directory)).state_floats > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blk.0.ssm_a", "decay of 4 heads"),
        ("blk.0.ssm_d", "4 are needed"),
        ("blk.1.ssm_conv1d.weight", "224 channels of 4"),
        ("blk.1.ssm_conv1d.bias", "224 are needed"),
        ("blk.3.ssm_norm.weight", "128 are needed"),
        ("blk.3.ssm_dt.bias", "4 are needed"),
    ],
)
def test_weights_that_do_not_fit(checkpoint: Checkpoint, make_driver, name: str, message: str) -> None:
    tensor = checkpoint.tensor(name)
    other = dataclasses.replace(tensor, shape=(3,), data=np.ones(3, np.float32).view(np.uint8))
    wrong = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, name: other})
    with pytest.raises(CheckpointError, match=message):
        make_driver(wrong)
