"""Falcon-H1, Mamba-2, Mamba and Jamba: their GGUF files, and what is refused. Numbers: `make parity`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence
from tiny_adapters import write_adapter
from tiny_decoder_directories import write_directory
from tiny_models import SMALLEST_VOCAB, write_tiny_llama
from tiny_states import FAMILIES, write_tiny_states

from llm_serving.architectures import describe
from llm_serving.backends.native_backend import memory_need
from llm_serving.backends.native_memory import WORKING_BYTES
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, ServingError
from llm_serving.native import ops

IDS = np.random.default_rng(4).integers(0, SMALLEST_VOCAB, 120).tolist()
# Layers that keep keys, that have a state.
LAYERS = {"falcon-h1": (3, 3), "mamba2": (0, 3), "mamba": (0, 3), "jamba": (1, 2)}


def file(folder: Path, family: str, **shape: Any) -> Checkpoint:
    return open_checkpoint(write_tiny_states(folder / "m.gguf", family, **{"kind": "Q8_0", **shape}))


def with_keys(checkpoint: Checkpoint, keys: dict[str, Any]) -> Checkpoint:
    named = {f"{checkpoint.architecture}.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


@pytest.mark.parametrize("family", FAMILIES)
def test_plan(tmp_path: Path, family: str) -> None:
    plan = describe(file(tmp_path, family))
    scans = [op for op in plan.operations if isinstance(op, (ops.MambaScan, ops.SelectiveScan))]
    assert (len(plan.kv), len(scans)) == LAYERS[family]
    own = scans[0].heads if isinstance(scans[0], ops.MambaScan) else scans[0].channels
    assert plan.state_floats == len(scans) * own.state_floats


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_threads_and_instruction_sets(tmp_path: Path, make_driver, family: str) -> None:
    checkpoint = file(tmp_path, family, kind="Q4_0")
    expected = make_driver(checkpoint).logits(IDS)
    assert np.ptp(expected) > 5
    for chunk, threads, isa in ((1, 1, "auto"), (7, 2, "auto"), (120, 2, "scalar")):
        driver = make_driver(checkpoint, threads=threads, isa=isa, seed=chunk)
        np.testing.assert_array_equal(driver.logits(IDS, chunk), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_company(tmp_path: Path, make_driver, family: str) -> None:
    driver = make_driver(file(tmp_path, family), threads=2)
    expected = driver.logits(IDS[:60])
    one, others = DrivenSequence(), [DrivenSequence() for _ in range(3)]
    parts = [driver.step([(others[0], IDS[80:110]), (one, IDS[:40]), (others[1], IDS[60:61])])[30:70]]
    for t in range(40, 60):
        batch = [(other, [t + i]) for i, other in enumerate(others)]
        parts.append(driver.step([*batch[:1], (one, IDS[t : t + 1]), *batch[1:]])[1:2])
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_norms_of_falcon_mamba(tmp_path: Path, make_driver) -> None:
    plain, normed = (
        make_driver(file(tmp_path, "mamba", normed=flag)).logits(IDS[:40]) for flag in (False, True)
    )
    assert np.abs(plain - normed).max() > 0.1 * np.ptp(plain)


@pytest.mark.parametrize("family", ["mamba2", "mamba"])
def test_memory_without_keys_and_values(tmp_path: Path, make_driver, family: str) -> None:
    """States are all there is; a million tokens are no reason to take more."""
    checkpoint = file(tmp_path, family, context=1 << 20)
    options = EngineOptions(max_concurrency=4)
    need, state = memory_need(checkpoint, options), 4 * describe(checkpoint).state_floats
    assert (need.least_kv, need.conversation_kv, need.most_kv) == (2 * state, 16 * state, 16 * state)
    driver = make_driver(checkpoint, max_concurrency=4)
    limits = driver.runner.limits
    assert (limits.max_context, limits.num_states, limits.num_blocks) == (1 << 20, 16, 1 << 16)
    few = make_driver(checkpoint, max_concurrency=4, memory_bytes=need.weights + 3 * state)
    assert few.runner.limits.num_states == 3
    np.testing.assert_array_equal(few.logits(IDS), driver.logits(IDS))
    with pytest.raises(ServingError, match="Not enough memory for one sequence"):
        make_driver(checkpoint, memory_bytes=need.weights + state)


def test_matrices_that_are_finer_than_their_tensors_are_planned(tmp_path: Path) -> None:
    """Steps of a low rank, B and C are a matrix of 24 + 2 * 16 rows in each of three layers."""
    checkpoint = file(tmp_path, "mamba", kind="Q4_0")
    planned = memory_need(checkpoint, EngineOptions()).weights - WORKING_BYTES
    in_file = sum(tensor.data.nbytes for tensor in checkpoint.tensors.values())
    assert planned - in_file == 3 * 56 * 128 * (2.125 - 0.5625)


def test_adapters_need_multipliers_that_a_file_does_not_say(tmp_path: Path) -> None:
    plain = open_checkpoint(write_tiny_llama(tmp_path / "plain.gguf"))
    options = EngineOptions(adapters=(write_adapter(tmp_path / "a", plain),))
    with pytest.raises(CheckpointError, match="multipliers in its weights"):
        memory_need(file(tmp_path, "falcon-h1"), options)


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("falcon-h1", {"ssm.conv_kernel": 3}, "convolution of 3 tokens"),
        ("falcon-h1", {"ssm.inner_size": None}, "'falcon-h1.ssm.inner_size'"),
        ("falcon-h1", {"attention.head_count": 3}, "3 query heads over 2 key heads"),
        ("mamba2", {"ssm.group_count": 3}, "in 3 groups"),
        ("mamba2", {"ssm.state_size": 32}, "no rows that stand 388 by 388"),
        ("mamba2", {"embedding_length": 72}, "hidden size .* 72"),
        ("mamba2", {"block_count": 1 << 20}, "'mamba2.block_count'"),
        ("mamba2", {"context_length": 1 << 30}, "context of 1073741824 tokens"),
        ("mamba", {"ssm.conv_kernel": 8}, "convolution of 8 tokens"),
        ("mamba", {"ssm.time_step_rank": 20}, "steps of rank 20"),
        ("mamba", {"ssm.time_step_rank": 1 << 20}, "steps of rank 1048576"),
        ("mamba", {"ssm.time_step_rank": 32}, "no rows that stand 64 by 64"),
        ("mamba", {"ssm.state_size": 1024}, "states of 1024"),
        ("mamba", {"ssm.inner_size": 1 << 30}, "they are not of one model"),
        ("mamba", {"ssm.dt_b_c_rms": 3}, "'mamba.ssm.dt_b_c_rms'"),
        ("jamba", {"attention.head_count_kv": 2}, "3 times 0 or one number"),
        ("jamba", {"attention.head_count_kv": np.zeros(3, np.int32)}, "3 times 0 or one number"),
        ("jamba", {"expert_count": 0}, "'jamba.expert_count'"),
    ],
)
def test_files_that_are_not_run(
    tmp_path: Path, make_driver, family: str, keys: dict[str, Any], message: str
) -> None:
    checkpoint = with_keys(file(tmp_path, family), keys)
    with pytest.raises(CheckpointError, match=message):
        make_driver(checkpoint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blk.0.ssm_a", "128, 16. is needed"),
        ("blk.0.ssm_d", "128 are needed"),
        ("blk.1.ssm_conv1d.weight", "128 channels of 4"),
        ("blk.2.ssm_dt.bias", "no rows that stand 128 by 128"),
        ("blk.2.ssm_x.weight", "no rows that stand 56 by 56"),
        ("blk.2.ssm_dt.weight", "no rows that stand 128 by 128"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, make_driver, name: str, message: str) -> None:
    checkpoint = file(tmp_path, "mamba")
    other = dataclasses.replace(
        checkpoint.tensor(name), kind="F32", shape=(3,), data=np.ones(3, np.float32).view(np.uint8)
    )
    wrong = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, name: other})
    with pytest.raises(CheckpointError, match=message):
        make_driver(wrong)


SIZES = {"mamba_n_heads": 4, "mamba_d_ssm": 128, "mamba_d_state": 24, "mamba_n_groups": 2, "mamba_d_conv": 4}


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("falcon_h1", {**SIZES, "projectors_bias": True}, "'projectors_bias'"),
        ("falcon_h1", {**SIZES, "mamba_rms_norm": True}, "'mamba_norm_before_gate' .* supported: False"),
        ("falcon_h1", {**SIZES, "mamba_d_ssm": 96}, "4 Mamba heads of size 24"),
        ("falcon_h1", {**SIZES, "mlp_multipliers": [1.0]}, "'mlp_multipliers' .* no list of 2 numbers"),
        ("falcon_h1", {**SIZES, "ssm_multipliers": [1, 1, 1, 1, "1"]}, "'ssm_multipliers' .* is '1'"),
        ("falcon_h1", {**SIZES, "key_multiplier": 1e9}, "'key_multiplier' .* 1000000000.0; from 1e-06"),
        ("falcon_h1", {**SIZES, "key_multiplier": None}, "'key_multiplier' .* positive number"),
        ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 2}, "'attn_layer_offset' .* from 0 to 1"),
        ("jamba", {"mamba_dt_rank": 8, "attn_layer_offset": 4}, "No layer of .* is attention"),
        ("jamba", {"mamba_proj_bias": True}, "'mamba_proj_bias'"),
        ("jamba", {"mamba_d_state": 12}, "states of 12"),
    ],
)
def test_directories_that_are_not_run(
    tmp_path: Path, family: str, config: dict[str, Any], message: str
) -> None:
    directory = write_directory(tmp_path / "d", write_tiny_llama(tmp_path / "m.gguf", kind="F32"))
    own = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**own, "model_type": family, **config}))
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))
