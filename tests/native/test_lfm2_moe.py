"""LFM2's mixture: convolutions, attention and experts in files and in directories."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_lfm2 import write_lfm2_directory, write_tiny_lfm2
from tiny_models import SMALLEST_VOCAB

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

IDS = np.random.default_rng(1).integers(0, SMALLEST_VOCAB, 120).tolist()


def write(path: Path, **shape: Any) -> Path:
    return write_tiny_lfm2(path, **{"experts": 6, "used": 2, **shape})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write(tmp_path_factory.mktemp("model") / "m.gguf", kind="Q4_0"))


def with_keys(checkpoint: Checkpoint, keys: dict[str, Any]) -> Checkpoint:
    named = {f"lfm2moe.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


@pytest.mark.parametrize("quantization", ["auto", "f32"])
def test_a_directory_gives_the_bits_of_a_file(tmp_path: Path, make_driver, quantization: str) -> None:
    path = write(tmp_path / "m.gguf", kind="F32")
    ours, expected = (
        make_driver(open_checkpoint(each), quantization=quantization).logits(IDS[:40])
        for each in (write_lfm2_directory(tmp_path / "d", path), path)
    )
    np.testing.assert_array_equal(ours, expected)
    assert np.ptp(expected) > 5


def test_chunks_threads_and_instruction_sets(checkpoint: Checkpoint, make_driver) -> None:
    expected = make_driver(checkpoint).logits(IDS)
    for chunk, threads, isa in ((1, 1, "auto"), (7, 3, "auto"), (50, 2, "scalar")):
        driver = make_driver(checkpoint, isa=isa, threads=threads, seed=chunk)
        np.testing.assert_array_equal(driver.logits(IDS, chunk=chunk), expected)


def test_the_first_layers_are_dense(checkpoint: Checkpoint) -> None:
    plan = describe(checkpoint)
    kinds = [type(op) for op in plan.operations]
    assert (kinds.count(ops.GatedConv), kinds.count(ops.Attention), kinds.count(ops.Route)) == (3, 2, 3)
    routes = [op for op in plan.operations if isinstance(op, ops.Route)]
    assert {(op.scores, op.correction is not None, op.scale) for op in routes} == {("sigmoid", True, 1.0)}


def test_a_bias_that_is_not_used_is_not_read(tmp_path: Path) -> None:
    directory = write_lfm2_directory(
        tmp_path / "d", write(tmp_path / "m.gguf", kind="F32"), use_expert_bias=False
    )
    routes = [op for op in describe(open_checkpoint(directory)).operations if isinstance(op, ops.Route)]
    assert [op.correction for op in routes] == [None] * 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"expert_gating_func": 1}, "'lfm2moe.expert_gating_func' .* supported: 2"),
        ({"expert_weights_scale": 1e9}, "scaled by 1e.09"),
        ({"expert_used_count": 7}, "uses 7 of 6 experts"),
        ({"expert_count": 0}, "'lfm2moe.expert_count'"),
        ({"expert_count": 5}, "6 rows where there are 5 experts"),
        ({"expert_feed_forward_length": None}, "'lfm2moe.expert_feed_forward_length'"),
        ({"attention.head_count_kv": 2}, "5 times 0 or one number"),
    ],
)
def test_files_that_are_not_run(checkpoint: Checkpoint, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        describe(with_keys(checkpoint, keys))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_experts": "6"}, "'num_experts' .* positive integer"),
        ({"norm_topk_prob": "yes"}, "'norm_topk_prob'"),
        ({"use_expert_bias": 2}, "'use_expert_bias'"),
        ({"routed_scaling_factor": -1.0}, "'routed_scaling_factor'"),
        ({"routed_scaling_factor": 1e9}, "scaled by 1e.09"),
        ({"moe_intermediate_size": 0}, "'moe_intermediate_size'"),
        ({"conv_bias": True}, "'conv_bias'"),
    ],
)
def test_directories_that_are_not_run(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    directory = write_lfm2_directory(tmp_path / "d", write(tmp_path / "m.gguf", kind="F32"), **config)
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))
