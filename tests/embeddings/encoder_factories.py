"""Encoders that the contract suite runs on. An entry: (name, factory of a small encoder, vocabulary size)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_encoders import BERT_VOCAB, write_tiny_bert

from llm_serving.backends.fake_encoder import ENCODER_VOCAB_SIZE, FakeEncoder
from llm_serving.embeddings.encoder import Encoder


def native(precision: str, **shape: Any) -> Encoder:
    """Weights are packed when the encoder is built, so the files may go at once."""
    from llm_serving.backends.native_encoder import load
    from llm_serving.checkpoints import open_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        return load(open_checkpoint(write_tiny_bert(Path(folder), **shape)), precision, 2)


FACTORIES: list[tuple[str, Callable[[], Encoder], int]] = [
    ("fake", lambda: FakeEncoder(max_tokens=24), ENCODER_VOCAB_SIZE),
    ("fake-cross", lambda: FakeEncoder(max_tokens=24, is_cross_encoder=True), ENCODER_VOCAB_SIZE),
    ("native-f32", lambda: native("f32"), len(BERT_VOCAB)),
    ("native-q8", lambda: native("q8"), len(BERT_VOCAB)),
    ("native-cross", lambda: native("f32", labels=1), len(BERT_VOCAB)),
]
