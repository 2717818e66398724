"""Qwen3.5: layers that remember beside layers that attend, in files and in directories."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence
from tiny_models import SMALLEST_VOCAB
from tiny_qwen35 import write_qwen35_directory, write_tiny_qwen35

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

IDS = np.random.default_rng(4).integers(0, SMALLEST_VOCAB, 200).tolist()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_tiny_qwen35(tmp_path_factory.mktemp("model") / "m.gguf", kind="Q8_0"))


def with_keys(checkpoint: Checkpoint, keys: dict[str, Any]) -> Checkpoint:
    named = {f"qwen35.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


@pytest.mark.parametrize("quantization", ["auto", "f32"])
@pytest.mark.parametrize("sees", [False, True])
def test_directory_and_file_agree(tmp_path: Path, make_driver, sees: bool, quantization: str) -> None:
    """But for what adding one to norms, and taking it away, rounds off."""
    gguf = write_tiny_qwen35(tmp_path / "m.gguf", kind="F32", tied=sees)
    directory = write_qwen35_directory(tmp_path / "d", gguf, sees=sees)
    ours, expected = (
        make_driver(open_checkpoint(path), quantization=quantization).logits(IDS[:60])
        for path in (directory, gguf)
    )
    assert np.ptp(expected) > 5
    np.testing.assert_allclose(
        ours, expected, atol=(0.05 if quantization == "auto" else 1e-3) * np.ptp(expected)
    )


@pytest.mark.parametrize("kv_cache", ["q16", "q8"])
def test_chunks_threads_and_instruction_sets(checkpoint: Checkpoint, make_driver, kv_cache: str) -> None:
    expected = make_driver(checkpoint, kv_cache=kv_cache).logits(IDS)
    for chunk, threads, isa in ((1, 1, "auto"), (7, 2, "auto"), (16, 3, "scalar"), (200, 2, "scalar")):
        driver = make_driver(checkpoint, kv_cache=kv_cache, threads=threads, isa=isa, seed=chunk)
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


def test_plan(checkpoint: Checkpoint) -> None:
    plan = describe(checkpoint)
    kinds = [type(op) for op in plan.operations]
    assert (len(plan.kv), kinds.count(ops.Attention), kinds.count(ops.DeltaRule)) == (1, 1, 3)
    assert plan.rope.rotated == 8
    assert plan.state_floats == 3 * (3 * 512 + 6 * 32 * 64)


def test_layers_for_drafts_are_not_read(tmp_path: Path, make_driver) -> None:
    plain, drafting = (
        open_checkpoint(write_tiny_qwen35(tmp_path / f"{n}.gguf", kind="Q8_0", drafting=n)) for n in (0, 1)
    )
    assert drafting.hyper("block_count") == 5
    np.testing.assert_array_equal(*(make_driver(each).logits(IDS[:30]) for each in (plain, drafting)))


def test_lists_of_layers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    listed = with_keys(checkpoint, {"attention.recurrent_layers": np.array([True, True, True, False, False])})
    assert describe(listed) == describe(checkpoint)
    kinds = [*["linear_attention"] * 3, "full_attention"]
    gguf = Path(checkpoint.path)
    directory = open_checkpoint(write_qwen35_directory(tmp_path / "d", gguf, layer_types=kinds))
    assert describe(directory) == describe(open_checkpoint(write_qwen35_directory(tmp_path / "e", gguf)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ssm.conv_kernel": 3}, "convolution of 3 tokens"),
        ({"ssm.time_step_rank": 5}, "5 value heads of size 0"),
        ({"ssm.group_count": 4}, "6 value heads .* over 4 key heads"),
        ({"ssm.state_size": 24}, "key heads of size 24"),
        ({"ssm.inner_size": None}, "'qwen35.ssm.inner_size'"),
        ({"full_attention_interval": 5}, "0 of 4 layers"),
        ({"full_attention_interval": 1}, "4 of 4 layers"),
        ({"nextn_predict_layers": 4}, "'qwen35.nextn_predict_layers'"),
        ({"attention.recurrent_layers": np.array([True])}, "4 times yes or no"),
    ],
)
def test_files_that_are_not_run(checkpoint: Checkpoint, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        describe(with_keys(checkpoint, keys))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attention_bias": True}, "'attention_bias'"),
        ({"layer_types": ["linear_attention"] * 3}, "list of 4 times"),
        ({"layer_types": ["sliding_attention"] * 4}, "list of 4 times"),
        ({"linear_num_value_heads": 0}, "'linear_num_value_heads'"),
        ({"hidden_act": "gelu"}, "'hidden_act'"),
    ],
)
def test_directories_that_are_not_run(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    gguf = write_tiny_qwen35(tmp_path / "m.gguf", kind="F32")
    directory = write_qwen35_directory(tmp_path / "d", gguf, **config)
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))


def test_weights_that_do_not_fit(checkpoint: Checkpoint, make_driver) -> None:
    for name, message in (
        ("blk.0.ssm_a", "decay of 6 heads"),
        ("blk.1.ssm_conv1d.weight", "512 channels of 4"),
    ):
        tensor = checkpoint.tensor(name)
        other = dataclasses.replace(tensor, shape=(3,), data=np.ones(3, np.float32).view(np.uint8))
        wrong = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, name: other})
        with pytest.raises(CheckpointError, match=message):
            make_driver(wrong)
