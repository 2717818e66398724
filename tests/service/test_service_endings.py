"""What ends an answer, beside text: tokens by id and by name, and not before so many have come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_server import Client, open_client

from llm_serving.backends.fake import (
    EOS_ID,
    FIRST_SPECIAL,
    NUM_BYTES,
    VOCAB_SIZE,
    FakeTokenizer,
    load_fake_engine,
)
from llm_serving.config import Settings
from llm_serving.engine.request import FinishReason
from llm_serving.service.completion import CompletionRequest
from llm_serving.service.endings import endings_of
from llm_serving.service.generation import GenerationOptions
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel

pytestmark = pytest.mark.anyio
REPLY = "Hello, world!"
START = FIRST_SPECIAL + 2  # <|im_start|>, which is no end of the model's


def said(text: str) -> list[int]:
    """The ids that the fake model says a text in."""
    return [NUM_BYTES + byte for byte in text.encode()]


def load(settings: Settings) -> ChatModel:
    return ChatModel("fake", load_fake_engine(engine_options(settings), reply=REPLY), FakeTokenizer())


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with open_client(load=load) as found:
        yield found


async def answer(client: Client, **fields: Any) -> tuple[str, str, int]:
    asked = {"prompt": "a", "max_tokens": 40, **fields}
    response = await client.post("/completions", json=asked)
    assert response.status_code == 200, response.text
    assert "x-ignored-parameters" not in response.headers
    (choice,), usage = response.json()["choices"], response.json()["usage"]
    return choice["text"], choice["finish_reason"], usage["completion_tokens"]


async def test_a_token_that_a_request_names_ends_it_and_is_not_shown(client: Client) -> None:
    assert await answer(client) == (REPLY, "stop", len(REPLY) + 1)
    comma, bang = said(",!")
    assert await answer(client, stop_token_ids=[bang, comma]) == ("Hello", "stop", 6)
    assert await answer(client, stop_token_ids=[]) == await answer(client, stop_token_ids=None)
    text, reason, count = await answer(client, ignore_eos=True)
    assert (reason, count) == ("length", 40)
    assert text.startswith(REPLY)
    assert await answer(client, ignore_eos=True, stop_token_ids=[comma]) == ("Hello", "stop", 6)


async def test_no_end_comes_before_so_many_tokens(client: Client) -> None:
    comma = said(",")[0]
    count = len(REPLY) + 6
    text, reason, found = await answer(client, min_tokens=count)
    assert text.startswith(REPLY)
    assert found >= count
    assert reason in ("stop", "length")
    assert await answer(client, min_tokens=len(REPLY)) == (REPLY, "stop", len(REPLY) + 1)
    late, _, found = await answer(client, min_tokens=6, stop_token_ids=[comma])
    assert found >= 6
    assert late.startswith("Hello")
    assert late[5:6] != ","
    sampled = {"temperature": 1.0, "seed": 3, "min_tokens": count}
    assert (await answer(client, **sampled))[2] >= count
    assert await answer(client, **sampled) == await answer(client, **sampled)


async def test_where_a_form_allows_nothing_but_an_end_it_comes(client: Client) -> None:
    assert await answer(client, min_tokens=9, regex="abc") == ("abc", "stop", 3)
    assert await answer(client, min_tokens=9, choice=["ab"]) == ("ab", "stop", 2)


async def test_the_name_of_a_special_token_is_that_token(client: Client) -> None:
    model = client.services.registry.default.get()
    stops = ("<|im_start|>", "<|eos|>", "word", "<think>")
    found = endings_of(model, stops, frozenset({5}), frozenset({6}), ignore_eos=False)
    assert found.ids == {EOS_ID, FIRST_SPECIAL + 3, START, 5, 6}
    assert found.names == {START: "<|im_start|>"}  # an end of the model's ends it as it always does
    bare = endings_of(model, stops, frozenset({5}), frozenset({6}), ignore_eos=True)
    assert bare.ids == {EOS_ID, START, 5}
    assert bare.names == {START: "<|im_start|>", EOS_ID: "<|eos|>"}


async def test_it_is_told_which_stop_it_was(client: Client) -> None:
    for name, told in (("<|im_start|>", "<|im_start|>"), ("<|eos|>", None)):
        options = GenerationOptions(
            max_tokens=9, stop=("word", name), logit_bias=((client_id(client, name), 100.0),)
        )
        asked = CompletionRequest("r", ["a"], options)
        async with await client.services.completion.open(asked) as generation:
            events = [event async for batch in generation for _, event in batch]
        assert (events[-1].finish_reason, events[-1].stop_string) == (FinishReason.STOP, told)
        assert "".join(event.text for event in events) == ""


def client_id(client: Client, name: str) -> int:
    return client.services.registry.default.get().tokenizer.prompt_ids[name]


async def test_a_prompt_is_only_read(client: Client) -> None:
    for path, prompt in (
        ("/completions", {"prompt": "a" * 60}),
        ("/chat/completions", {"messages": [{"content": "a" * 60}]}),
    ):
        first = (await client.post(path, json={**prompt, "n_predict": 0})).json()
        assert (first["usage"]["completion_tokens"], first["choices"][0]["finish_reason"]) == (0, "length")
        then = (await client.post(path, json={**prompt, "n_predict": 3})).json()
        assert then["usage"]["completion_tokens"] == 3
        assert then["usage"]["prompt_tokens_details"]["cached_tokens"] >= 48
        more = (await client.post(path, json={**prompt, "n_predict": 3, "max_tokens": 5})).json()
        assert more["usage"]["completion_tokens"] == 5
        free = (await client.post(path, json={**prompt, "n_predict": -1})).json()
        assert free["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
        ({"stop_token_ids": [0] * 129}, "stop_token_ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids.0"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"min_tokens": 2**31}, "min_tokens"),
        ({"n_predict": 2**31}, "n_predict"),
    ],
)
async def test_bad_values_name_the_field(client: Client, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/completions", json={"prompt": "a", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
