"""jina-bert-v2 against numpy: directories, GGUF files, cross-encoders, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf_encoders import write_gguf_encoder
from tiny_encoders import BERT_VOCAB
from tiny_jina_bert import hidden_states, write_tiny_jina

from llm_serving.backends import load_encoder
from llm_serving.checkpoints import Checkpoint, Tensor, dequantize, open_checkpoint
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import CheckpointError

TEXTS = [np.random.default_rng(n).integers(5, len(BERT_VOCAB), n).tolist() for n in (1, 2, 17, 40, 62)]


def values(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: dequantize(tensor) for name, tensor in checkpoint.tensors.items()}


def rows_of(checkpoint: Checkpoint, texts: list[EncoderInput] | None = None) -> np.ndarray:
    encoder, choice = load_encoder("native", checkpoint, precision="f32", threads=2)
    assert choice.name == "native"
    return encoder.encode(texts or [EncoderInput(ids) for ids in TEXTS])


@pytest.mark.parametrize("for_code", [False, True])
@pytest.mark.parametrize(("hidden", "heads"), [(64, 4), (96, 6), (96, 12)])
def test_rows_are_numpys(hidden: int, heads: int, for_code: bool, tmp_path: Path) -> None:
    directory = write_tiny_jina(tmp_path / "m", hidden=hidden, heads=heads, for_code=for_code)
    checkpoint = open_checkpoint(directory)
    for ids, row in zip(TEXTS, rows_of(checkpoint), strict=True):
        expected = hidden_states(values(checkpoint), ids, [0] * len(ids), heads).mean(0)
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=2e-6)


def test_scores_are_numpys(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_jina(tmp_path / "m", labels=1))
    tensors = values(checkpoint)
    pairs = [EncoderInput(ids, second_segment=len(ids) // 2) for ids in TEXTS[1:]]
    for pair, row in zip(pairs, rows_of(checkpoint, pairs), strict=True):
        segments = [int(i >= len(pair.token_ids) // 2) for i in range(len(pair.token_ids))]
        first = hidden_states(tensors, pair.token_ids, segments, 6)[0]
        pooled = np.tanh(tensors["bert.pooler.dense.weight"] @ first + tensors["bert.pooler.dense.bias"])
        np.testing.assert_allclose(
            row, tensors["classifier.weight"] @ pooled + tensors["classifier.bias"], atol=5e-6
        )


@pytest.mark.parametrize("for_code", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_rows_of_a_gguf_file_are_the_directorys(split: bool, for_code: bool, tmp_path: Path) -> None:
    """Older files have the gate as a tensor of its own."""
    directory = write_tiny_jina(tmp_path / "m", for_code=for_code)
    checkpoint = open_checkpoint(write_gguf_encoder(tmp_path / "m.gguf", directory))
    assert checkpoint.architecture == "jina-bert-v2"
    if split:
        tensors = dict(checkpoint.tensors)
        for name in [name for name in tensors if "ffn_up" in name]:
            both = tensors[name]
            tensors[name] = both.part(0 if for_code else 1, 2)
            tensors[name.replace("ffn_up", "ffn_gate")] = both.part(1 if for_code else 0, 2)
        checkpoint = replace(checkpoint, tensors=renamed(tensors))
    np.testing.assert_allclose(rows_of(checkpoint), rows_of(open_checkpoint(directory)), atol=1e-6)


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: replace(tensor, name=name) for name, tensor in tensors.items()}


def test_another_feed_forward_layer_is_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_jina(tmp_path / "m"))
    with pytest.raises(CheckpointError, match="'feed_forward_type' in .* is 'reglu'; supported: geglu"):
        rows_of(replace(checkpoint, metadata={**checkpoint.metadata, "feed_forward_type": "reglu"}))
