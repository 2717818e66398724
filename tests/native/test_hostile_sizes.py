"""Headers that say what no model has are refused at once, before memory is taken for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_encoders import write_tiny_bert
from tiny_models import (
    write_tiny_gemma3,
    write_tiny_llama,
    write_tiny_mixtral,
    write_tiny_olmo2,
    write_tiny_qwen3,
)

from llm_serving.architectures import describe_encoder
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, Tensor, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, ServingError
from llm_serving.native.encoder import NativeEncoder

GGUF = [
    "block_count",
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "feed_forward_length",
    "context_length",
    "rope.dimension_count",
]
CONFIG = [
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "sliding_window",
]
HUGE = [(1 << 31) - 1, 1 << 30, 1 << 24, 96 * 1024]


def refuses(checkpoint: Checkpoint) -> None:
    with pytest.raises((CheckpointError, ServingError)):
        build_runner(checkpoint, EngineOptions(memory_bytes=1 << 30)).close()


def cases(keys: list[str]) -> list[tuple[str, int]]:
    """A context of 96 Ki tokens is none of a hostile file, and one of 16 Mi gives way to memory."""
    contexts = ("context_length", "max_position_embeddings", "sliding_window")
    return [(key, value) for key in keys for value in (HUGE[:2] if key in contexts else HUGE)]


@pytest.mark.parametrize(("key", "value"), cases(GGUF))
def test_gguf(tmp_path: Path, key: str, value: int) -> None:
    checkpoint = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf"))
    refuses(dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, f"llama.{key}": value}))


@pytest.mark.parametrize(("key", "value"), cases(CONFIG))
def test_directory(tmp_path: Path, key: str, value: int) -> None:
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32")
    config = {key: value}
    if key == "sliding_window":  # alone it can only shorten
        config |= {"model_type": "mistral", "max_position_embeddings": value}
    refuses(open_checkpoint(write_directory(tmp_path / "d", gguf, **config)))


@pytest.mark.parametrize("value", [(1 << 31) - 1, 1 << 30])
@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "intermediate_size", "max_position_embeddings"]
)
def test_encoder(tmp_path: Path, key: str, value: int) -> None:
    checkpoint = open_checkpoint(write_tiny_bert(tmp_path))
    with pytest.raises(CheckpointError):
        describe_encoder(dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, key: value}))


@pytest.mark.parametrize("cols", [32, 128, 8192])
@pytest.mark.parametrize(
    "name",
    ["self_attn.q_proj", *(f"block_sparse_moe.{part}" for part in ("gate", "experts.1.w1", "experts.1.w2"))],
)
def test_a_matrix_of_another_width_is_never_multiplied(tmp_path: Path, name: str, cols: int) -> None:
    """Wider than what it is multiplied with, it would read what lies behind."""
    gguf = write_tiny_mixtral(tmp_path / "m.gguf", kind="F32")
    checkpoint = open_checkpoint(write_directory(tmp_path / "d", gguf))
    name = f"model.layers.0.{name}.weight"
    rows = checkpoint.tensor(name).shape[0]
    odd = Tensor(name, "F32", (rows, cols), np.zeros(rows * cols * 4, np.uint8))
    with pytest.raises(CheckpointError, match=f"a matrix has {cols} columns where (64|96) are needed"):
        build_runner(
            dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, name: odd}),
            EngineOptions(threads=1, memory_bytes=1 << 30),
        ).close()


@pytest.mark.parametrize(
    ("wider", "message"),
    [
        ({"blk.0.ffn_gate", "blk.0.ffn_up"}, "does not fit its header: a matrix has 96 columns where 128"),
        ({"blk.0.ffn_gate"}, "'blk.0.ffn_up.weight' has 96 rows where the model's header means 128"),
        (set(), "'blk.0.ffn_gate.weight' has 96 rows where the model's header means 128"),
    ],
)
def test_a_feed_forward_part_that_is_narrower_than_the_header_says(
    tmp_path: Path, wider: set[str], message: str
) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", kind="F32")
    checkpoint = open_checkpoint(path)
    tensors = dict(checkpoint.tensors)
    for name in wider:
        data = np.zeros((128, 64), np.float32).view(np.uint8).reshape(-1)
        tensors[f"{name}.weight"] = Tensor(f"{name}.weight", "F32", (128, 64), data)
    metadata = {**checkpoint.metadata, "llama.feed_forward_length": 128}
    odd = dataclasses.replace(checkpoint, metadata=metadata, tensors=tensors)
    with pytest.raises(CheckpointError, match=message):
        build_runner(odd, EngineOptions(threads=1)).close()


@pytest.mark.parametrize("size", [8, 24, 1 << 16])
@pytest.mark.parametrize(
    ("write", "right"), [(write_tiny_qwen3, 16), (write_tiny_gemma3, 16), (write_tiny_olmo2, 64)]
)
def test_a_norm_of_another_size_than_its_heads(
    tmp_path: Path, write: Callable[..., Path], right: int, size: int
) -> None:
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf"))
    name = "blk.0.attn_q_norm.weight"
    odd = Tensor(name, "F32", (size,), np.ones(size, np.float32).view(np.uint8))
    tensors = {**checkpoint.tensors, name: odd}
    with pytest.raises(CheckpointError, match=f"has {size} values where {right} are needed"):
        build_runner(dataclasses.replace(checkpoint, tensors=tensors), EngineOptions(threads=1)).close()


@pytest.mark.parametrize("cols", [32, 128])
def test_an_embedding_of_another_width(tmp_path: Path, cols: int) -> None:
    message = f"an embedding has {cols} columns where 64 are needed"
    checkpoint = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="F32", tied=False))
    with pytest.raises(CheckpointError, match=message):
        build_runner(with_cols(checkpoint, "token_embd.weight", cols), EngineOptions(threads=1)).close()
    bert = open_checkpoint(write_tiny_bert(tmp_path / "bert", hidden=64))
    words = "embeddings.word_embeddings.weight"
    with pytest.raises(CheckpointError, match=message):
        NativeEncoder(describe_encoder(bert), with_cols(bert, words, cols)).close()


def with_cols(checkpoint: Checkpoint, name: str, cols: int) -> Checkpoint:
    rows = checkpoint.tensor(name).shape[0]
    data = np.ones((rows, cols), np.float32).view(np.uint8).reshape(-1)
    odd = Tensor(name, "F32", (rows, cols), data)
    return dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, name: odd})
