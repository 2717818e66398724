"""Nemotron-H: layers of one part each, dense and with experts, in files and in directories."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import SMALLEST_VOCAB
from tiny_nemotron_h import write_nemotron_h_directory, write_tiny_nemotron_h

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

IDS = np.random.default_rng(4).integers(0, SMALLEST_VOCAB, 120).tolist()


@pytest.fixture(params=[False, True], ids=["dense", "mixture"])
def is_mixture(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def path(tmp_path: Path, is_mixture: bool) -> Path:
    return write_tiny_nemotron_h(tmp_path / "m.gguf", kind="F32", is_mixture=is_mixture)


def with_keys(checkpoint: Checkpoint, keys: dict[str, Any]) -> Checkpoint:
    named = {f"{checkpoint.architecture}.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


@pytest.mark.parametrize("quantization", ["auto", "f32"])
def test_directory_and_file_agree(tmp_path: Path, path: Path, make_driver, quantization: str) -> None:
    """But for what the logarithm of rates, and taking it back, rounds off."""
    ours, expected = (
        make_driver(open_checkpoint(each), quantization=quantization).logits(IDS[:60])
        for each in (write_nemotron_h_directory(tmp_path / "d", path), path)
    )
    assert np.ptp(expected) > 5
    np.testing.assert_allclose(
        ours, expected, atol=(0.02 if quantization == "auto" else 1e-3) * np.ptp(expected)
    )


def test_chunks_threads_and_instruction_sets(tmp_path: Path, is_mixture: bool, make_driver) -> None:
    path = write_tiny_nemotron_h(tmp_path / "m.gguf", kind="Q4_0", is_mixture=is_mixture)
    expected = make_driver(open_checkpoint(path)).logits(IDS)
    for chunk, threads, isa in ((1, 1, "auto"), (7, 3, "auto"), (50, 2, "scalar")):
        driver = make_driver(open_checkpoint(path), threads=threads, isa=isa, seed=chunk)
        np.testing.assert_array_equal(driver.logits(IDS, chunk), expected)


def test_plan(path: Path, is_mixture: bool) -> None:
    plan = describe(open_checkpoint(path))
    kinds = [type(op) for op in plan.operations]
    assert (len(plan.kv), kinds.count(ops.Attention), kinds.count(ops.MambaScan)) == (1, 1, 2)
    assert (kinds.count(ops.Route), kinds.count(ops.Xielu)) == ((2, 4) if is_mixture else (0, 2))
    norms = {op.epsilon for op in plan.operations if isinstance(op, ops.Quantize) and op.weight}
    assert sorted(norms) == pytest.approx([1e-4])
    assert plan.state_floats == 2 * (3 * 224 + 128 * 24)


def test_patterns_of_letters(tmp_path: Path, path: Path, is_mixture: bool) -> None:
    pattern = "MEM*E" if is_mixture else "M-M*-"
    names = {"layers_block_type": None, "hybrid_override_pattern": pattern}
    older, newer = (
        describe(open_checkpoint(write_nemotron_h_directory(tmp_path / name, path, **config)))
        for name, config in (("older", names), ("newer", {}))
    )
    assert older == newer


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ssm.state_size": 20}, "states of 20"),
        ({"attention.head_count_kv": 2}, "head_count_kv' .* 5 times 0 or one number"),
        ({"feed_forward_length": np.array([0, 96, 0, 0, 64])}, "feed_forward_length' .* 5 times"),
        ({"attention.head_count_kv": np.zeros(5, np.int32)}, "some of attention and some of Mamba"),
        ({"moe_latent_size": 64}, "moe_latent_size' .* not supported"),
        ({"nextn_predict_layers": 5}, "nextn_predict_layers'"),
        ({"attention.sliding_window": 64}, "sliding_window' .* not supported"),
    ],
)
def test_files_that_are_not_run(path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        describe(with_keys(open_checkpoint(path), keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"expert_group_count": 4}, "expert_group_count' .* in groups"),
        ({"expert_weights_scale": 1e9}, "scaled by 1e.09"),
        ({"expert_used_count": 7}, "uses 7 of 6 experts"),
        ({"expert_shared_feed_forward_length": 100}, "shared expert .* 100 wide"),
    ],
)
def test_mixtures_that_are_not_run(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = write_tiny_nemotron_h(tmp_path / "m.gguf", kind="F32", is_mixture=True)
    with pytest.raises(CheckpointError, match=message):
        describe(with_keys(open_checkpoint(path), keys))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_bias": True}, "'use_bias'"),
        ({"mlp_bias": True}, "'mlp_bias'"),
        ({"mamba_proj_bias": True}, "'mamba_proj_bias'"),
        ({"mlp_hidden_act": "silu"}, "'mlp_hidden_act'"),
        ({"mamba_hidden_act": "gelu"}, "'mamba_hidden_act'"),
        ({"sliding_window": 128}, "'sliding_window'"),
        ({"moe_latent_size": 64}, "'moe_latent_size'"),
        ({"layers_block_type": ["mamba", "rwkv"]}, "'layers_block_type' .* none of mamba"),
        ({"layers_block_type": [["mamba"]]}, "'layers_block_type' .* none of mamba"),
        ({"layers_block_type": []}, "'layers_block_type' .* no list"),
        ({"layers_block_type": None, "hybrid_override_pattern": "MX"}, "'hybrid_override_pattern'"),
        ({"layers_block_type": ["mamba"] * 5}, "some of attention and some of Mamba"),
        ({"conv_kernel": 3}, "convolution of 3 tokens"),
        ({"time_step_limit": [0.001, 0.1]}, "'time_step_limit'"),
        ({"n_group": 2}, "'n_group'"),
        ({"norm_topk_prob": "yes"}, "'norm_topk_prob'"),
        ({"moe_intermediate_size": 50}, "expert .* 50 wide"),
    ],
)
def test_directories_that_are_not_run(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    path = write_tiny_nemotron_h(tmp_path / "m.gguf", kind="F32", is_mixture=True)
    directory = write_nemotron_h_directory(tmp_path / "d", path, **config)
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))
