"""The official client's embeddings against a live server: it asks for base64 unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI

from llm_serving.backends.fake_encoder import FakeEncoder, FakeEncoderTokenizer, word_id
from llm_serving.embeddings.encoder import EncoderInput

TEXTS = ["Hello, world!", "How are you?", "日本語のテキスト 😀"]


@pytest.fixture
def sdk(live_url: str) -> Iterator[OpenAI]:
    with OpenAI(api_key="OPENAI_API_KEY", base_url=f"{live_url}/", max_retries=0) as opened:
        yield opened


def expected(texts: list[str]) -> np.ndarray:
    ids = FakeEncoderTokenizer().encode_batch(texts)
    return FakeEncoder().encode([EncoderInput(each) for each in ids])


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["default", "float"])
def test_vectors_are_exactly_the_models(sdk: OpenAI, options: Any) -> None:
    answer = sdk.embeddings.create(model="text-embedding-3-small", input=TEXTS, **options)
    assert answer.model == "fake-embed"
    assert [item.index for item in answer.data] == [0, 1, 2]
    vectors = np.array([item.embedding for item in answer.data], np.float32)
    assert vectors.tobytes() == expected(TEXTS).tobytes()
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 9


def test_base64_as_it_is(sdk: OpenAI) -> None:
    answer = sdk.embeddings.create(model="x", input=TEXTS, encoding_format="base64")
    assert all(isinstance(item.embedding, str) for item in answer.data)


def test_one_text_token_arrays_and_dimensions(sdk: OpenAI) -> None:
    one = sdk.embeddings.create(model="x", input="Hello").data[0].embedding
    for tokens in ([word_id("hello")], [[word_id("hello")]]):
        assert sdk.embeddings.create(model="x", input=tokens).data[0].embedding == one
    assert len(sdk.embeddings.create(model="x", input="Hello", dimensions=8).data[0].embedding) == 8


def test_many(sdk: OpenAI) -> None:
    texts = [f"text {i}" for i in range(2048)]
    answer = sdk.embeddings.create(model="x", input=texts)
    vectors = np.array([item.embedding for item in answer.data], np.float32)
    assert vectors.tobytes() == expected(texts).tobytes()


@pytest.mark.parametrize(
    "value", ["", [], ["a"] * 2049, ["a", ""]], ids=["empty", "none", "many", "one empty"]
)
def test_errors_are_the_clients_own_types(sdk: OpenAI, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.embeddings.create(model="x", input=value)
    assert str(caught.value.param).startswith("input")
