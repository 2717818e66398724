"""Gemma 3n: streams of rows, sparse gates, shared keys, and the same model as a file and as a directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence
from tiny_gemma3n import CUT, write_gemma3n_directory, write_tiny_gemma3n
from tiny_gemma4 import GLOBAL, LOCAL
from tiny_models import SMALLEST_VOCAB

from llm_serving.architectures import describe, sees
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, ServingError
from llm_serving.native import ops

LENGTH = 700  # three pieces of a context, and more than two windows
OPTIONS: dict[str, Any] = {"context_length": 1024}


def ids(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SMALLEST_VOCAB, LENGTH)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(
        write_tiny_gemma3n(tmp_path_factory.mktemp("model") / "m.gguf", window=290, context=1024)
    )


def test_who_keeps_who_reads_and_whose_gates_are_sparse(checkpoint: Checkpoint) -> None:
    plan = describe(checkpoint)
    assert plan.kv == (ops.KvShape(2, 16),) * 4
    attention = [operation for operation in plan.operations if isinstance(operation, ops.Attention)]
    assert [own.layer for own in attention] == [0, 1, 2, 3, 3, 2, 3]
    assert [own.window for own in attention] == [290, 290, 0, 290, 290, 0, 290]
    sparse = [operation for operation in plan.operations if isinstance(operation, ops.GaussianTopK)]
    assert [own.deviations for own in sparse] == pytest.approx([CUT, CUT])


def test_a_file_that_says_nothing_has_sparse_gates_as_published(tmp_path: Path) -> None:
    model = open_checkpoint(write_tiny_gemma3n(tmp_path / "m.gguf", layers=12))
    metadata = {key: value for key, value in model.metadata.items() if "sparsity" not in key}
    operations = describe(replace(model, metadata=metadata)).operations
    sparse = [operation for operation in operations if isinstance(operation, ops.GaussianTopK)]
    assert [own.deviations for own in sparse] == pytest.approx([1.6448536] * 10)


def test_a_directory_is_the_same_model(checkpoint: Checkpoint, tmp_path: Path, make_driver) -> None:
    directory = open_checkpoint(write_gemma3n_directory(tmp_path / "d", Path(checkpoint.path)))
    ours, expected = (
        make_driver(model, quantization="f32", **OPTIONS).logits(ids()) for model in (directory, checkpoint)
    )
    np.testing.assert_array_equal(ours, expected)
    assert np.abs(expected).max() > 1


def test_text_of_a_directory_that_sees_and_hears(checkpoint: Checkpoint, tmp_path: Path, make_driver) -> None:
    """As the whole model is published: other names for the text model, and other tensors."""
    directory = write_gemma3n_directory(tmp_path / "d", Path(checkpoint.path))
    plain = open_checkpoint(directory)
    tensors = {name.replace("model.", "model.language_model.", 1): t for name, t in plain.tensors.items()}
    tower = "model.vision_tower.timm_model.conv_stem.conv.weight"
    tensors[tower] = replace(next(iter(plain.tensors.values())), name=tower)
    metadata = {"model_type": "gemma3n", "text_config": dict(plain.metadata), "vision_config": {}}
    whole = replace(plain, architecture="gemma3n", metadata=metadata, tensors=tensors)
    assert not sees(whole)
    ours, expected = (make_driver(model, **OPTIONS).logits(ids()[:60]) for model in (whole, plain))
    np.testing.assert_array_equal(ours, expected)


def test_older_directories_have_rotary_bases_apart(checkpoint: Checkpoint, tmp_path: Path) -> None:
    own = {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": None}
    directory = write_gemma3n_directory(tmp_path / "d", Path(checkpoint.path), **own)
    plan = describe(open_checkpoint(directory))
    assert plan.rope.theta == 5e5
    stores = [op for op in plan.operations if isinstance(op, ops.RopeStore)]
    assert [op.rope and op.rope.theta for op in stores] == [2e4, 2e4, None, 2e4]


def test_rows_that_are_asked_for_are_those_of_all(checkpoint: Checkpoint, make_driver) -> None:
    """Layers that keep no keys compute the rows that are wanted; how many those are changes no bit."""
    driver = make_driver(checkpoint, **OPTIONS)
    expected = driver.logits(ids())
    np.testing.assert_array_equal(driver.in_pieces(ids(), [1, 2, 297, 16, 384]), expected)
    sequence, other = DrivenSequence(), DrivenSequence()
    assert driver.step([(sequence, ids()[:300])], rows=[]).shape == (0, SMALLEST_VOCAB)
    rows = [0, 7, 8, 9, 50, 51, 199]  # of both sequences, alone and next to each other
    logits = driver.step([(sequence, ids()[300:350]), (other, ids()[:150])], rows=rows)
    np.testing.assert_array_equal(logits, expected[[300, 307, 308, 309, 0, 1, 149]])


def test_instruction_sets_give_the_same_bits(checkpoint: Checkpoint, make_driver) -> None:
    expected, ours = (
        make_driver(checkpoint, isa=isa, threads=threads, **OPTIONS).logits(ids()[:70])
        for isa, threads in (("auto", 1), ("scalar", 2))
    )
    np.testing.assert_array_equal(ours, expected)


HUGE = [(1 << 31) - 1, 1 << 24]
CONFIG = [
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "hidden_size_per_layer_input",
    "altup_num_inputs",
]
GGUF = [
    "block_count",
    "embedding_length",
    "attention.head_count",
    "attention.key_length",
    "attention.head_count_kv",
    "attention.shared_kv_layers",
    "embedding_length_per_layer_input",
    "altup.num_inputs",
    "altup.active_idx",
    "rope.dimension_count",
    "feed_forward_length",
    "activation_sparsity_scale",
]


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("key", CONFIG)
def test_sizes_of_no_model_in_a_config(checkpoint: Checkpoint, tmp_path: Path, key: str, value: int) -> None:
    directory = write_gemma3n_directory(tmp_path / "d", Path(checkpoint.path), **{key: value})
    refuses(open_checkpoint(directory))


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("key", GGUF)
def test_sizes_of_no_model_in_a_file(checkpoint: Checkpoint, key: str, value: int) -> None:
    refuses(replace(checkpoint, metadata={**checkpoint.metadata, f"gemma3n.{key}": value}))


def refuses(checkpoint: Checkpoint) -> None:
    with pytest.raises((CheckpointError, ServingError)):
        build_runner(checkpoint, EngineOptions(memory_bytes=1 << 30)).close()


@pytest.mark.parametrize("streams", [2, 3, 5])
def test_streams_that_the_tensors_do_not_have(checkpoint: Checkpoint, tmp_path: Path, streams: int) -> None:
    directory = write_gemma3n_directory(tmp_path / "d", Path(checkpoint.path), altup_num_inputs=streams)
    refuses(open_checkpoint(directory))
    refuses(replace(checkpoint, metadata={**checkpoint.metadata, "gemma3n.altup.num_inputs": streams}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma3n", "text_config": {"model_type": "llama"}}, "model_type"),
        ({"model_type": "gemma3n", "text_config": 3}, "text_config"),
        ({"layer_types": [LOCAL] * 6 + [GLOBAL]}, "has no layer whose keys"),
        ({"num_kv_shared_layers": 7}, "num_kv_shared_layers"),
        ({"num_kv_shared_layers": None}, "num_kv_shared_layers"),
        ({"altup_active_idx": 1}, "altup_active_idx"),
        ({"altup_num_inputs": 1}, "altup_num_inputs"),
        ({"altup_num_inputs": 9}, "altup_num_inputs"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_activation": "gelu"}, "hidden_activation"),
        ({"final_logit_softcapping": 0.0}, "final_logit_softcapping"),
        ({"head_dim": 20}, "does not run"),
        ({"intermediate_size": [96] * 6}, "intermediate_size"),
        ({"intermediate_size": [96.0] * 7}, "intermediate_size"),
        ({"activation_sparsity_pattern": [0.5] * 6}, "activation_sparsity_pattern"),
        ({"activation_sparsity_pattern": [1.0] * 7}, "activation_sparsity_pattern"),
        ({"activation_sparsity_pattern": 0.95}, "activation_sparsity_pattern"),
        ({"hidden_size_per_layer_input": 24}, "per-layer input size"),
        ({"rope_parameters": {GLOBAL: {"rope_type": "dynamic", "factor": 8.0}}}, "dynamic"),
        ({"rope_parameters": {LOCAL: {"rope_type": "yarn", "rope_theta": 1e4}}}, "yarn"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    directory = write_gemma3n_directory(tmp_path / "d", Path(checkpoint.path))
    written = json.loads((directory / "config.json").read_text()) | config
    (directory / "config.json").write_text(json.dumps(written))
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))
