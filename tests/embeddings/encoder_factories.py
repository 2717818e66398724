"""Encoders that the contract suite runs on. An entry: (name, factory of a small encoder, vocabulary size)."""

from __future__ import annotations

from collections.abc import Callable

from llm_serving.backends.fake_encoder import ENCODER_VOCAB_SIZE, FakeEncoder
from llm_serving.embeddings.encoder import Encoder

FACTORIES: list[tuple[str, Callable[[], Encoder], int]] = [
    ("fake", lambda: FakeEncoder(max_tokens=24), ENCODER_VOCAB_SIZE),
    ("fake-cross", lambda: FakeEncoder(max_tokens=24, is_cross_encoder=True), ENCODER_VOCAB_SIZE),
]
