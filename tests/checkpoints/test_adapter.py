"""Adapters as PEFT saves them: what is read, and what is refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_adapters import random_matrices, write_matrices
from tiny_encoders import write_safetensors

from llm_serving.checkpoints import dequantize, read_adapter
from llm_serving.errors import CheckpointError

MODULE = "model.layers.0.self_attn.q_proj"
SHAPES = {MODULE: (32, 64), "lm_head": (100, 64)}


def written(directory: Path, rank: int = 4, seed: int = 1, **config: Any) -> Path:
    return write_matrices(directory, random_matrices(SHAPES, rank, seed), **config)


@pytest.mark.parametrize("infix", ["", ".default", ".my-adapter"])
def test_matrices_and_scale(tmp_path: Path, infix: str) -> None:
    adapter = read_adapter(written(tmp_path, lora_alpha=6, infix=infix))
    assert sorted(adapter.modules) == ["lm_head", MODULE]
    low = adapter.modules[MODULE]
    down, up = random_matrices(SHAPES, 4, 1)[MODULE]
    np.testing.assert_array_equal(dequantize(low.down), down)
    np.testing.assert_array_equal(dequantize(low.up), up)
    assert (low.rank, low.scale) == (4, 1.5)


def test_half_precision(tmp_path: Path) -> None:
    adapter = read_adapter(written(tmp_path, bfloat16=True))
    assert adapter.modules[MODULE].down.kind == "BF16"
    np.testing.assert_allclose(
        dequantize(adapter.modules[MODULE].down), random_matrices(SHAPES, 4, 1)[MODULE][0], rtol=1e-2
    )


def test_the_digest_names_what_an_adapter_does_and_not_where_it_is(tmp_path: Path) -> None:
    def digest(name: str, **how: Any) -> bytes:
        return read_adapter(written(tmp_path / name, **how)).digest

    plain = digest("a")
    assert len(plain) == 16
    assert digest("b", lora_dropout=0.5, infix=".default") == plain
    others = [digest("c", seed=2), digest("d", lora_alpha=8), digest("e", rank=5), digest("f", bfloat16=True)]
    assert len({plain, *others}) == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("modules_to_save", ["embed_tokens"]),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("layer_replication", [[0, 2]]),
        ("alora_invocation_tokens", [5]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("lora_alpha", None),
        ("lora_alpha", "16"),
        ("lora_alpha", True),
        ("alpha_pattern", ["q_proj"]),
        ("alpha_pattern", {"(": 3}),
        ("alpha_pattern", {"q_proj": "3"}),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"adapter_config.json: .*'{key}'"):
        read_adapter(written(tmp_path, **{key: value}))


@pytest.mark.parametrize("value", [True, False, "gaussian", "eva", "orthogonal"])
def test_beginnings_that_leave_the_base_as_it_is(tmp_path: Path, value: Any) -> None:
    assert read_adapter(written(tmp_path, init_lora_weights=value)).modules


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("base_model.model.lm_head.base_layer.weight", (8, 8), "whole weights"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", (4, 8), "embeddings"),
        (f"base_model.model.{MODULE}.lora_B.bias", (8,), "biases"),
        (f"base_model.model.{MODULE}.lora_magnitude_vector", (8,), "supported"),
        (f"base_model.model.{MODULE}.lora_A.default.weight", (4, 64), "two of tensor"),
        ("base_model.model.other.lora_A.weight", (4, 64), "has no 'lora_B.weight'"),
        ("base_model.model.other.lora_B.weight", (4, 64), "has no 'lora_A.weight'"),
    ],
)
def test_tensors_that_do_not_belong(tmp_path: Path, name: str, shape: tuple[int, ...], problem: str) -> None:
    path = written(tmp_path)
    tensors = {
        f"base_model.model.{MODULE}.lora_A.weight": np.zeros((4, 64), np.float32),
        f"base_model.model.{MODULE}.lora_B.weight": np.zeros((32, 4), np.float32),
        name: np.zeros(shape, np.float32),
    }
    write_safetensors(path / "adapter_model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=problem):
        read_adapter(path)


@pytest.mark.parametrize(
    ("down", "up", "problem"),
    [
        ((4, 64), (32, 5), r"are not \[rank, inputs\]"),
        ((4, 64, 1), (32, 4), r"are not \[rank, inputs\]"),
        ((4,), (32, 4), r"are not \[rank, inputs\]"),
        ((513, 64), (32, 513), "rank of 513, over 512"),
    ],
)
def test_shapes_that_are_none(
    tmp_path: Path, down: tuple[int, ...], up: tuple[int, ...], problem: str
) -> None:
    path = write_matrices(tmp_path, {MODULE: (np.zeros(down, np.float32), np.zeros(up, np.float32))})
    with pytest.raises(CheckpointError, match=problem):
        read_adapter(path)


def test_other_types(tmp_path: Path) -> None:
    path = written(tmp_path)
    name = f"base_model.model.{MODULE}.lora_A.weight"
    write_safetensors(path / "adapter_model.safetensors", {name: np.zeros((4, 64), np.int64)})
    with pytest.raises(CheckpointError, match="is of I64; those of adapters are F32, F16 or BF16"):
        read_adapter(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="adapter_config.json: there is no such file"):
        read_adapter(tmp_path)
    with pytest.raises(CheckpointError, match="adapter_config.json: there is no such file"):
        read_adapter(tmp_path / "nowhere")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match="adapter_model.safetensors: there is no such file"):
        read_adapter(tmp_path)


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    path = written(tmp_path)
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="adapter_model.bin: is a Python pickle.*safetensors"):
        read_adapter(path)


def test_nothing_in_it(tmp_path: Path) -> None:
    path = written(tmp_path)
    write_safetensors(path / "adapter_model.safetensors", {})
    with pytest.raises(CheckpointError, match="there is no tensor in it"):
        read_adapter(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_files_that_are_cut(tmp_path: Path, share: float) -> None:
    weights = written(tmp_path) / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="adapter_model.safetensors"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"peft_type": "LORA", "peft_type": "LORA"}', "\xff"])
def test_configurations_that_are_none(tmp_path: Path, text: str) -> None:
    path = written(tmp_path)
    (path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="adapter_config.json: the file"):
        read_adapter(path)
