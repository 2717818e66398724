"""What every `Encoder` must do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from encoder_factories import FACTORIES

from llm_serving.embeddings.encoder import Encoder, EncoderInput


class Subject(NamedTuple):
    encoder: Encoder
    vocab_size: int


@pytest.fixture(params=FACTORIES, ids=[name for name, _, _ in FACTORIES])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    _, make, vocab_size = request.param
    encoder = make()
    yield Subject(encoder, vocab_size)
    encoder.close()


def texts_for(subject: Subject, num: int = 12) -> list[EncoderInput]:
    """Texts and pairs of all lengths from 2 to the longest possible."""
    random = np.random.default_rng(7)
    texts = []
    for i in range(num):
        length = 2 + i * (subject.encoder.max_tokens - 2) // (num - 1)
        ids = random.integers(3, subject.vocab_size, length).tolist()
        texts.append(EncoderInput(ids, length // 2 if i % 3 == 0 else None))
    return texts


def test_rows_are_finite_float32_in_order(subject: Subject) -> None:
    texts = texts_for(subject)
    rows = subject.encoder.encode(texts)
    assert rows.dtype == np.float32
    assert rows.shape == (len(texts), subject.encoder.dimensions)
    assert np.isfinite(rows).all()
    assert subject.encoder.device


def test_a_row_depends_on_its_own_text_only_bit_for_bit(subject: Subject) -> None:
    texts = texts_for(subject)
    together = subject.encoder.encode(texts).copy()
    for text, row in zip(texts, together, strict=True):
        assert subject.encoder.encode([text])[0].tobytes() == row.tobytes()
    backwards = subject.encoder.encode(texts[::-1])
    assert backwards[::-1].tobytes() == together.tobytes()
    doubled = subject.encoder.encode([texts[3]] * 5)
    assert {row.tobytes() for row in doubled} == {together[3].tobytes()}


def test_rows_outlive_the_next_call(subject: Subject) -> None:
    first, second = texts_for(subject)[:2]
    row = subject.encoder.encode([first])
    before = row.tobytes()
    subject.encoder.encode([second])
    assert row.tobytes() == before


def test_different_texts_differ(subject: Subject) -> None:
    if subject.encoder.dimensions == 1:
        pytest.skip("one number a text")
    rows = subject.encoder.encode(texts_for(subject))
    assert len({row.tobytes() for row in rows}) == len(rows)


@pytest.mark.parametrize("bad", ["empty", "too long", "negative", "out of range"])
def test_what_cannot_be_encoded_is_refused_and_harms_nobody(subject: Subject, bad: str) -> None:
    ids = {
        "empty": [],
        "too long": [5] * (subject.encoder.max_tokens + 1),
        "negative": [5, -1],
        "out of range": [5, subject.vocab_size],
    }[bad]
    texts = texts_for(subject)
    before = subject.encoder.encode(texts).tobytes()
    with pytest.raises(ValueError, match=r"."):
        subject.encoder.encode([texts[0], EncoderInput(ids)])
    assert subject.encoder.encode(texts).tobytes() == before


def test_closing_twice(subject: Subject) -> None:
    subject.encoder.encode(texts_for(subject)[:1])
    subject.encoder.close()
    subject.encoder.close()
