"""Encoders from GGUF files: rows of the directory they were made from, other kinds of weights, damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_encoders import POOLING, write_gguf_encoder
from tiny_encoders import BERT_VOCAB, write_tiny_bert
from tiny_rotary_encoders import VOCAB, write_tiny_nomic, write_tiny_qwen3

from llm_serving.backends import load_encoder
from llm_serving.checkpoints import Checkpoint, Tensor, dequantize, open_checkpoint
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import CheckpointError

MODELS: dict[str, Callable[[Path], Path]] = {
    "bert": write_tiny_bert,
    "roberta": lambda path: write_tiny_bert(path, family="roberta", segments=1),
    "xlm-roberta": lambda path: write_tiny_bert(path, family="xlm-roberta", segments=1),
    "nomic": write_tiny_nomic,
    "qwen3": write_tiny_qwen3,
}
BATCH = [
    EncoderInput(np.random.default_rng(i).integers(5, min(len(BERT_VOCAB), VOCAB), n).tolist(), second)
    for i, (n, second) in enumerate([(1, None), (2, None), (17, None), (40, None), (62, None), (30, 12)])
]


def rows_of(source: Path | Checkpoint) -> np.ndarray:
    checkpoint = open_checkpoint(source) if isinstance(source, Path) else source
    encoder, _ = load_encoder("native", checkpoint, precision="f32", threads=2)
    return encoder.encode(BATCH)


def unit(rows: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


@pytest.mark.parametrize("family", MODELS)
def test_rows_are_the_directorys(family: str, tmp_path: Path) -> None:
    directory = MODELS[family](tmp_path / "m")
    path = write_gguf_encoder(tmp_path / "m.gguf", directory)
    assert open_checkpoint(path).format == "gguf"
    np.testing.assert_allclose(rows_of(path), unit(rows_of(directory)), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLING)
def test_pooling_is_what_the_file_says(pooling: str, tmp_path: Path) -> None:
    directory = write_tiny_bert(tmp_path / "m", pooling={"last": "lasttoken"}.get(pooling, pooling))
    path = write_gguf_encoder(tmp_path / "m.gguf", directory, pooling=POOLING[pooling])
    np.testing.assert_allclose(rows_of(path), rows_of(directory), atol=1e-6)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("family", ["bert", "nomic", "qwen3"])
def test_other_kinds_of_weights_are_the_values_they_stand_for(family: str, kind: str, tmp_path: Path) -> None:
    path = write_gguf_encoder(tmp_path / "m.gguf", MODELS[family](tmp_path / "m"), kind=kind)
    checkpoint = open_checkpoint(path)
    assert kind in {tensor.kind for tensor in checkpoint.tensors.values()}
    plain = {
        name: Tensor(name, "F32", tensor.shape, dequantize(tensor).reshape(-1).view(np.uint8))
        for name, tensor in checkpoint.tensors.items()
    }
    assert rows_of(checkpoint).tobytes() == rows_of(replace(checkpoint, tensors=plain)).tobytes()


def changed(path: Path, **keys: Any) -> Checkpoint:
    """The file's checkpoint with these hyperparameters, None for those that are taken away."""
    checkpoint = open_checkpoint(path)
    new = {f"{checkpoint.architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    metadata = {key: value for key, value in {**checkpoint.metadata, **new}.items() if value is not None}
    return replace(checkpoint, metadata=metadata)


@pytest.mark.parametrize("family", ["bert", "nomic", "qwen3"])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"embedding_length": None}, "embedding_length' in '.*' is None; a positive integer"),
        ({"attention__head_count": 0}, "head_count' in '.*' is 0; a positive integer"),
        ({"block_count": "2"}, "block_count' in '.*' is '2'; a positive integer"),
        ({"block_count": 3}, "has no tensor 'blk.2."),
        ({"pooling_type": 4}, "pooling_type' in '.*' is 4; supported"),
        ({"pooling_type": "mean"}, "pooling_type' in '.*' is 'mean'; supported"),
    ],
)
def test_wrong_keys_are_named(family: str, keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_gguf_encoder(tmp_path / "m.gguf", MODELS[family](tmp_path / "m"))
    with pytest.raises(CheckpointError, match=message):
        rows_of(changed(path, **keys))


@pytest.mark.parametrize("family", ["nomic", "qwen3"])
def test_rotations_that_are_not_computed_are_refused(family: str, tmp_path: Path) -> None:
    path = write_gguf_encoder(tmp_path / "m.gguf", MODELS[family](tmp_path / "m"))
    with pytest.raises(CheckpointError, match="Rotary scaling 'longrope'"):
        rows_of(changed(path, rope__scaling__type="longrope"))


@pytest.mark.parametrize("family", ["bert", "nomic", "qwen3"])
def test_a_missing_table_of_words_is_named(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf_encoder(tmp_path / "m.gguf", MODELS[family](tmp_path / "m")))
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if "token_embd.w" not in name}
    with pytest.raises(CheckpointError, match=r"has no tensor 'token_embd\.weight'"):
        rows_of(replace(checkpoint, tensors=tensors))


def test_a_reranker_without_its_pooler_is_refused(tmp_path: Path) -> None:
    directory = write_tiny_bert(tmp_path / "m", labels=1)
    path = write_gguf_encoder(tmp_path / "m.gguf", directory, pooling=gguf.PoolingType.RANK)
    with pytest.raises(CheckpointError, match="has a classifier but not the pooler before it"):
        rows_of(path)


def with_answers(path: Path, labels: Any, rows: int = 2) -> Checkpoint:
    """A Qwen3 file with these labels, which are rows of its table of words."""
    checkpoint = changed(path, pooling_type=4, classifier__output_labels=labels)
    head = checkpoint.tensors["token_embd.weight"].rows(range(rows))
    return replace(checkpoint, tensors={**checkpoint.tensors, "cls.output.weight": head})


def test_answers_are_found_by_their_labels(tmp_path: Path) -> None:
    path = write_gguf_encoder(tmp_path / "m.gguf", write_tiny_qwen3(tmp_path / "m"))
    scores = rows_of(with_answers(path, ["yes", "no"]))
    assert scores.shape == (len(BATCH), 1)
    assert (scores == -rows_of(with_answers(path, ["no", "yes"]))).all()
    assert rows_of(with_answers(path, None, rows=1)).shape == (len(BATCH), 1)


@pytest.mark.parametrize("labels", [["a", "b"], ["yes"], "yes", ["yes", "no", "no"]])
def test_answers_that_are_not_yes_and_no_are_refused(labels: Any, tmp_path: Path) -> None:
    path = write_gguf_encoder(tmp_path / "m.gguf", write_tiny_qwen3(tmp_path / "m"))
    with pytest.raises(CheckpointError, match="classifier.output_labels' in .* supported: yes and no"):
        rows_of(with_answers(path, labels))


def test_answers_without_rows_are_refused(tmp_path: Path) -> None:
    path = write_gguf_encoder(tmp_path / "m.gguf", write_tiny_qwen3(tmp_path / "m"))
    checkpoint = with_answers(path, ["yes", "no"])
    flat = replace(checkpoint.tensors["cls.output.weight"], shape=(2 * 64,))
    damaged = replace(checkpoint, tensors={**checkpoint.tensors, "cls.output.weight": flat})
    with pytest.raises(CheckpointError, match=r"of shape \(128,\) has no rows \[0, 1\]"):
        rows_of(damaged)
