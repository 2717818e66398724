"""The class definitions of the user's own README, from top to bottom."""

from __future__ import annotations

import base64
import json
import time

import httpx
import pytest

import llm_serving
from llm_serving import (
    ChatCompletionRequest,
    ChatCompletionResponse,
    EmbeddingObject,
    EmbedRequest,
    EmbedResponse,
)
from llm_serving.errors import MissingExtra


def test_chat_completion_request() -> None:
    request = ChatCompletionRequest(model="m", messages=[{"content": "x"}], stream=True)
    assert (request.model, request.messages, request.stream) == ("m", [{"content": "x"}], True)


def test_chat_completion_response(live_url: str) -> None:
    made = ChatCompletionResponse(
        id=1,
        object="chat.completion",
        created=time.time(),
        choices=[{"message": {"role": "assistant", "content": "generated_text"}}],
    )
    assert made.choices[0]["message"]["content"] == "generated_text"
    answer = httpx.post(f"{live_url}/chat/completions", json={"messages": [{"content": "Hi"}]}).json()
    assert ChatCompletionResponse(**answer).model_dump() == answer


def test_embedding_object() -> None:
    item = EmbeddingObject(embedding=[0.1, 0.2], index=3)
    assert item.model_dump() == {"object": "embedding", "embedding": [0.1, 0.2], "index": 3}


def test_embed_request_and_its_defaults() -> None:
    request = EmbedRequest()
    assert request.input == [""]
    assert request.model == "mock-embed-model"
    assert request.encoding_format == "float"
    assert request.dimensions is None  # the model's own size, as in the document's own example
    assert request.user == "007"


def test_embed_requests_fields_over_http(live_url: str) -> None:
    request = EmbedRequest(input=["a", "b"], dimensions=16, user="me")
    answer = httpx.post(f"{live_url}/embeddings", content=request.model_dump_json()).json()
    assert [len(item["embedding"]) for item in answer["data"]] == [16, 16]
    as_base64 = EmbedRequest(input=["a"], encoding_format="base64").model_dump()
    (item,) = httpx.post(f"{live_url}/embeddings", json=as_base64).json()["data"]
    assert len(base64.b64decode(item["embedding"])) == 32 * 4


def test_embed_response(live_url: str) -> None:
    empty = EmbedResponse(data=[])
    assert (empty.object, empty.data, empty.model) == ("list", [], "mock-embed-model")
    for encoding_format in ("float", "base64"):
        body = {"input": ["a"], "encoding_format": encoding_format}
        answer = httpx.post(f"{live_url}/embeddings", json=body).json()
        assert json.loads(EmbedResponse(**answer).model_dump_json()) == answer


def test_custom_streamer_is_there_or_says_how_to_get_it() -> None:
    from llm_serving.backends import transformers_backend

    if transformers_backend.is_installed():
        assert llm_serving.CustomStreamer.__mro__[1].__name__ == "TextIteratorStreamer"
    else:
        with pytest.raises(MissingExtra, match=r"pip install 'llm-serving\[transformers\]'"):
            _ = llm_serving.CustomStreamer


@pytest.mark.parametrize("name", llm_serving.__all__)
def test_every_name_can_be_imported(name: str) -> None:
    assert getattr(llm_serving, name).__name__ == name
    assert {name, "CustomStreamer"} <= set(dir(llm_serving))
