"""OLMo 3: rotary positions are scaled in layers that see everything, and in no others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_models import SMALLEST_VOCAB, write_tiny_olmo3

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

IDS = np.random.default_rng(1).integers(0, SMALLEST_VOCAB, 200)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
NEWER = {  # as transformers 5 writes it
    "rope_theta": 1.0,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
        "full_attention": {**YARN, "rope_theta": 5e5},
    },
}


@pytest.fixture
def plain(tmp_path: Path) -> Checkpoint:
    path = write_tiny_olmo3(tmp_path / "m.gguf", layers=5, kind="F32", rope_base=5e5)
    return open_checkpoint(path)


def with_keys(checkpoint: Checkpoint, keys: dict[str, Any]) -> Checkpoint:
    named = {f"olmo2.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


def test_which_layers_have_windows(plain: Checkpoint) -> None:
    plan = describe(plain)
    windows = [operation.window for operation in plan.operations if isinstance(operation, ops.Attention)]
    assert windows == [32, 32, 32, 0, 32]
    silent = {key: value for key, value in plain.metadata.items() if not key.endswith("_pattern")}
    assert describe(dataclasses.replace(plain, metadata=silent)) == plan  # the family's own pattern


@pytest.mark.parametrize("config", [{"rope_scaling": YARN}, NEWER], ids=["older", "newer"])
def test_yarn_in_layers_that_see_everything(
    plain: Checkpoint, tmp_path: Path, make_driver, config: dict[str, Any]
) -> None:
    keys = {"type": "yarn", "factor": 4.0, "original_context_length": 64}
    gguf = with_keys(plain, {f"rope.scaling.{key}": value for key, value in keys.items()})
    ropes = [o.rope for o in describe(gguf).operations if isinstance(o, ops.RopeStore)]
    local = ops.Rope(5e5, 16)
    assert ropes == [local, local, local, None, local]
    assert describe(gguf).rope.factors
    directory = open_checkpoint(write_directory(tmp_path / "d", Path(plain.path), **config))
    ours, expected, unscaled = (make_driver(each).logits(IDS) for each in (directory, gguf, plain))
    np.testing.assert_array_equal(ours, expected)
    assert np.abs(ours - unscaled).max() > 0.1


@pytest.mark.parametrize("window", [-1, "32", 3.5, np.array([32, 32])])
def test_a_window_that_is_none(plain: Checkpoint, window: object) -> None:
    with pytest.raises(CheckpointError, match="'olmo2.attention.sliding_window' .* positive integer"):
        describe(with_keys(plain, {"attention.sliding_window": window}))
