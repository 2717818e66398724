"""Gemma 4: layers of two shapes, keys that layers share, and the same model as a file and as a directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence
from tiny_gemma4 import GLOBAL, LOCAL, write_gemma4_directory, write_tiny_gemma4, write_tiny_gemma4_large
from tiny_models import SMALLEST_VOCAB

from llm_serving.architectures import describe
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, Tensor, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, ServingError
from llm_serving.native import ops
from llm_serving.native.runner import kv_block_bytes

LENGTH = 700  # three pieces of a context, and more than two windows
EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
WRITERS = {"small": write_tiny_gemma4, "large": write_tiny_gemma4_large}


def ids(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SMALLEST_VOCAB, LENGTH)


@pytest.fixture(params=WRITERS)
def checkpoint(tmp_path: Path, request: pytest.FixtureRequest) -> Checkpoint:
    return open_checkpoint(WRITERS[request.param](tmp_path / "m.gguf", window=290, context=1024))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(
        write_tiny_gemma4(tmp_path_factory.mktemp("model") / "m.gguf", window=290, context=1024)
    )


def test_who_keeps_and_who_reads(small: Checkpoint) -> None:
    plan = describe(small)
    local, other = ops.KvShape(2, 16), ops.KvShape(1, 32)
    assert plan.kv == (local, local, other, local)
    attention = [operation for operation in plan.operations if isinstance(operation, ops.Attention)]
    assert [own.layer for own in attention] == [0, 1, 2, 3, 3, 2, 3]
    assert [own.window for own in attention] == [290, 290, 0, 290, 290, 0, 290]
    assert kv_block_bytes(plan, "q16") == 16 * (3 * 2 * 2 * (2 * 16 + 4) + 2 * (2 * 32 + 4))


def test_a_directory_is_the_same_model(checkpoint: Checkpoint, tmp_path: Path, make_driver) -> None:
    directory = open_checkpoint(write_gemma4_directory(tmp_path / "d", Path(checkpoint.path)))
    ours, expected = (
        make_driver(model, quantization="f32", context_length=1024).logits(ids())
        for model in (directory, checkpoint)
    )
    np.testing.assert_array_equal(ours, expected)


def test_newer_files_say_it_layer_by_layer(small: Checkpoint, tmp_path: Path) -> None:
    own = {str(i): {"head_dim": 32, "num_key_value_heads": 1} for i in (2, 5)}
    directory = write_gemma4_directory(tmp_path / "d", Path(small.path), per_layer_config=own)
    config = json.loads((directory / "config.json").read_text())
    for key in ("global_head_dim", "num_global_key_value_heads"):
        del config[key]
    (directory / "config.json").write_text(json.dumps(config))
    assert describe(open_checkpoint(directory)).kv == describe(small).kv


def test_gates_of_experts_may_be_tensors_of_their_own(tmp_path: Path, make_driver) -> None:
    together = open_checkpoint(write_tiny_gemma4_large(tmp_path / "m.gguf", window=290, context=1024))
    tensors = dict(together.tensors)
    for i in range(together.hyper("block_count")):
        both = tensors.pop(f"blk.{i}.ffn_gate_up_exps.weight")
        experts, rows, cols = both.shape
        halves = both.data.reshape(experts, 2, -1)
        for part, half in (("gate", halves[:, 0]), ("up", halves[:, 1])):
            name = f"blk.{i}.ffn_{part}_exps.weight"
            data = np.ascontiguousarray(half).reshape(-1)
            tensors[name] = Tensor(name, both.kind, (experts, rows // 2, cols), data)
    apart = replace(together, tensors=tensors)
    ours, expected = (make_driver(model, context_length=1024).logits(ids()) for model in (apart, together))
    np.testing.assert_array_equal(ours, expected)


def test_rows_that_are_asked_for_are_those_of_all(checkpoint: Checkpoint, make_driver) -> None:
    """Layers that keep no keys compute the rows that are wanted; how many those are changes no bit."""
    driver = make_driver(checkpoint, context_length=1024)
    expected = driver.logits(ids())
    sequence, other = DrivenSequence(), DrivenSequence()
    assert driver.step([(sequence, ids()[:300])], rows=[]).shape == (0, SMALLEST_VOCAB)
    rows = [0, 7, 8, 9, 50, 51, 199]  # of both sequences, alone and next to each other
    logits = driver.step([(sequence, ids()[300:350]), (other, ids()[:150])], rows=rows)
    np.testing.assert_array_equal(logits, expected[[300, 307, 308, 309, 0, 1, 149]])


def test_the_table_stays_in_the_file(small: Checkpoint, make_driver) -> None:
    """A row of it is added as the file has it, whatever weights are packed as."""
    plan = describe(small)
    assert [op.tensor for op in plan.operations if isinstance(op, ops.AddRows)] == [
        "per_layer_token_embd.weight"
    ]
    table = small.tensor("per_layer_token_embd.weight")
    driver = make_driver(small, quantization="f32", context_length=1024)
    assert driver.runner.weight_bytes < sum(
        4 * np.prod(t.shape) for t in small.tensors.values() if t is not table
    )


HUGE = [(1 << 31) - 1, 1 << 24]
CONFIG = [
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "global_head_dim",
    "num_global_key_value_heads",
    "intermediate_size",
    "hidden_size_per_layer_input",
]
GGUF = [
    "block_count",
    "attention.head_count",
    "attention.key_length",
    "attention.key_length_swa",
    "attention.head_count_kv",
    "attention.shared_kv_layers",
    "embedding_length_per_layer_input",
    "rope.dimension_count",
    "rope.dimension_count_swa",
    "feed_forward_length",
    "expert_count",
]


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("key", CONFIG)
def test_sizes_of_no_model_in_a_config(small: Checkpoint, tmp_path: Path, key: str, value: int) -> None:
    directory = write_gemma4_directory(tmp_path / "d", Path(small.path), **{key: value})
    refuses(open_checkpoint(directory))


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("key", GGUF)
def test_sizes_of_no_model_in_a_file(small: Checkpoint, key: str, value: int) -> None:
    refuses(replace(small, metadata={**small.metadata, f"gemma4.{key}": value}))


def refuses(checkpoint: Checkpoint) -> None:
    with pytest.raises((CheckpointError, ServingError)):
        build_runner(checkpoint, EngineOptions(memory_bytes=1 << 30)).close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma4", "text_config": {"model_type": "llama"}}, "model_type"),
        ({"model_type": "gemma4", "text_config": 3}, "text_config"),
        ({"layer_types": [LOCAL] * 7}, "No layer .* sees everything"),
        ({"layer_types": [LOCAL] * 6 + [GLOBAL]}, "has no layer whose keys"),
        ({"num_kv_shared_layers": 7}, "num_kv_shared_layers"),
        ({"num_kv_shared_layers": "3"}, "num_kv_shared_layers"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_activation": "gelu"}, "hidden_activation"),
        ({"final_logit_softcapping": "x"}, "final_logit_softcapping"),
        ({"final_logit_softcapping": 0.0}, "final_logit_softcapping"),
        ({"global_head_dim": 20}, "does not run"),
        ({"per_layer_config": {"2": 3}}, "per_layer_config"),
        ({"per_layer_config": {"2": {"head_dim": 64}}}, "several sizes"),
        ({"hidden_size_per_layer_input": 24}, "per-layer input size"),
        ({"rope_parameters": {GLOBAL: {"rope_type": "proportional", "factor": 2.0}}}, "not supported"),
        ({"rope_parameters": {GLOBAL: {"rope_type": "dynamic", "factor": 8.0}}}, "dynamic"),
        ({"rope_parameters": {LOCAL: {"rope_type": "dynamic", "factor": 8.0}}}, "dynamic"),
        (EXPERTS, "runs one or the other"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(
    small: Checkpoint, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    directory = write_gemma4_directory(tmp_path / "d", Path(small.path), **config)
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))
