"""Encoders from GGUF files against the directories they were made from: same texts, same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
transformers = pytest.importorskip("transformers")

import gguf  # noqa: E402
from gguf_encoders import ARCHITECTURES, POOLING, write_gguf_encoder  # noqa: E402
from transformers_encoders import save_encoder  # noqa: E402

from llm_serving.backends import load_encoder  # noqa: E402
from llm_serving.checkpoints import (  # noqa: E402
    EncoderTokenizer,
    build_encoder_tokenizer,
    open_checkpoint,
    read_classes,
    require_classifier,
)
from llm_serving.embeddings.encoder import Encoder, EncoderInput  # noqa: E402
from llm_serving.errors import CheckpointError  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

TEXTS = ["the fox", "Who came? Nobody, and then the rain came for a week.", "a", "über 3.14 中文 🤖 "]
TEXTS.append(" ".join(TEXTS) * 3)


def opened(path: Path) -> tuple[Encoder, EncoderTokenizer]:
    checkpoint = open_checkpoint(path)
    encoder, _ = load_encoder("native", checkpoint, precision="f32", threads=2)
    return encoder, build_encoder_tokenizer(checkpoint)


def rows_of(path: Path) -> np.ndarray:
    encoder, tokenizer = opened(path)
    texts = [tokenizer.truncate(ids, encoder.max_tokens) for ids in tokenizer.encode_batch(TEXTS)]
    return encoder.encode([EncoderInput(ids) for ids in texts])


def converted(path: Path, directory: Path, **options: Any) -> Path:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return write_gguf_encoder(path, directory, tokenizer, **options)


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_rows_are_the_directorys(family: str, pooling: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "m", family, pooling={"last": "lasttoken"}.get(pooling, pooling))
    ours = rows_of(converted(tmp_path / "m.gguf", directory, pooling=POOLING[pooling]))
    expected = rows_of(directory)
    assert (ours * expected).sum(1).min() >= 0.999999
    np.testing.assert_allclose(ours, expected, atol=1e-6)


RERANKERS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("roberta", {}, {}),
    ("xlm-roberta", {}, {}),
    ("distilbert", {}, {}),
    ("modernbert", {"classifier_pooling": "cls"}, {}),
    ("modernbert", {"classifier_pooling": "mean", "classifier_bias": True}, {}),
    # The converter has no names for these: they are the general ones.
    ("nomic_bert", {}, {"nomic_bert.pooler.dense": "cls", "classifier": "cls.output"}),
]


@pytest.mark.parametrize(("family", "config", "renamed"), RERANKERS)
def test_scores_are_the_directorys(
    family: str, config: dict[str, Any], renamed: dict[str, str], tmp_path: Path
) -> None:
    directory = save_encoder(tmp_path / "m", family, labels=1, **config)
    path = converted(tmp_path / "m.gguf", directory, pooling=gguf.PoolingType.RANK, renamed=renamed)
    scores = []
    for each in (path, directory):
        encoder, tokenizer = opened(each)
        assert encoder.dimensions == 1
        pairs = tokenizer.encode_pairs(TEXTS[1], TEXTS[:4])
        scores.append(encoder.encode([EncoderInput(*pair) for pair in pairs]))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


@pytest.mark.parametrize("labels", [("against", "neither", "for"), ()])
def test_classes_are_the_directorys(labels: tuple[str, ...], tmp_path: Path) -> None:
    names = {"id2label": dict(enumerate(labels))} if labels else {}
    directory = save_encoder(tmp_path / "m", "roberta", labels=3, **names)
    path = converted(tmp_path / "m.gguf", directory, pooling=gguf.PoolingType.RANK, labels=labels)
    found = []
    for each in (path, directory):
        require_classifier(open_checkpoint(each))
        encoder, tokenizer = opened(each)
        assert read_classes(open_checkpoint(each), encoder.dimensions).labels == (
            labels or ("LABEL_0", "LABEL_1", "LABEL_2")
        )
        found.append(encoder.encode([EncoderInput(ids) for ids in tokenizer.encode_batch(TEXTS[:4])]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_a_reranker_whose_pooler_was_left_out_is_refused(tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "m", "bert", labels=1)
    path = converted(tmp_path / "m.gguf", directory, pooling=gguf.PoolingType.RANK)
    with pytest.raises(CheckpointError, match="has a classifier but not the pooler before it"):
        opened(path)
