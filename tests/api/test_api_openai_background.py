"""The official client's background responses against a live server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fake_server import fake_app, running_server
from openai import AsyncOpenAI, OpenAI

REPLY = "Hello, world! " * 4 + "😀"
ENDLESS: dict[str, Any] = {"max_output_tokens": 3000, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(fake_app(behaviour={"reply": REPLY, "step_seconds": 0.003})) as base:
        yield f"{base}/v1"


@pytest.fixture(scope="module")
def sdk(url: str) -> Iterator[OpenAI]:
    with OpenAI(api_key="any", base_url=url, max_retries=0) as opened:
        yield opened


def ended(sdk: OpenAI, response_id: str) -> Any:
    while (response := sdk.responses.retrieve(response_id)).status in ("queued", "in_progress"):
        time.sleep(0.005)
    return response


def test_polled(sdk: OpenAI) -> None:
    queued = sdk.responses.create(model="gpt-4o", input="Hi", background=True)
    assert (queued.status, queued.background, queued.output_text) == ("queued", True, "")
    done = ended(sdk, queued.id)
    assert (done.status, done.output_text, done.id) == ("completed", REPLY, queued.id)
    following = sdk.responses.create(model="gpt-4o", input="And?", previous_response_id=done.id)
    assert following.output_text == REPLY


@pytest.mark.anyio
async def test_polled_by_the_other_client(url: str) -> None:
    async with AsyncOpenAI(api_key="any", base_url=url, max_retries=0) as sdk:
        response = await sdk.responses.create(model="gpt-4o", input="Hi", background=True)
        while response.status in ("queued", "in_progress"):
            response = await sdk.responses.retrieve(response.id)
    assert response.output_text == REPLY


def test_cancelled(sdk: OpenAI) -> None:
    queued = sdk.responses.create(model="gpt-4o", input="Hi", background=True, **ENDLESS)
    for _ in range(2):
        cancelled = sdk.responses.cancel(queued.id)
        assert (cancelled.id, cancelled.status) == (queued.id, "cancelled")
    assert sdk.responses.retrieve(queued.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        sdk.responses.create(model="gpt-4o", input="And?", previous_response_id=queued.id)
    foreground = sdk.responses.create(model="gpt-4o", input="Hi")
    with pytest.raises(openai.BadRequestError, match="background"):
        sdk.responses.cancel(foreground.id)


def test_deleted(sdk: OpenAI) -> None:
    queued = sdk.responses.create(model="gpt-4o", input="Hi", background=True, **ENDLESS)
    sdk.responses.delete(queued.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(queued.id)


def test_a_stream_that_is_left_goes_on_and_is_taken_up_again(sdk: OpenAI) -> None:
    text = ""
    with sdk.responses.create(model="gpt-4o", input="Hi", background=True, stream=True) as first:
        for event in first:
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == "response.output_text.delta":
                text += event.delta
                if len(text) == 5:
                    break
    last = event.sequence_number
    for event in sdk.responses.retrieve(response_id, stream=True, starting_after=last):
        assert event.sequence_number == last + 1
        last = event.sequence_number
        if event.type == "response.output_text.delta":
            text += event.delta
    assert event.type == "response.completed"
    assert text == event.response.output_text == REPLY
    again = [event.type for event in sdk.responses.retrieve(response_id, stream=True)]
    assert again[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert len(again) == last + 1


def test_a_stream_that_is_left_completes_unread(sdk: OpenAI) -> None:
    with sdk.responses.create(model="gpt-4o", input="Hi", background=True, stream=True) as stream:
        event = next(stream)
        assert event.type == "response.created"
    assert ended(sdk, event.response.id).output_text == REPLY


def test_stream_helpers_of_the_client(sdk: OpenAI) -> None:
    with sdk.responses.stream(model="gpt-4o", input="Hi", background=True) as stream:
        whole = stream.get_final_response()
    assert whole.output_text == REPLY
    with sdk.responses.stream(response_id=whole.id, starting_after=4) as stream:
        numbers = [event.sequence_number for event in stream]
        assert stream.get_final_response().output_text == REPLY
    assert numbers[0] == 5


def test_a_stream_that_is_cancelled(sdk: OpenAI) -> None:
    stream = sdk.responses.create(model="gpt-4o", input="Hi", background=True, stream=True, **ENDLESS)
    kinds = []
    for event in stream:
        kinds.append(event.type)
        if event.type == "response.created":
            response_id = event.response.id
        if len(kinds) == 8:
            sdk.responses.cancel(response_id)
    assert kinds[-1] == "response.cancelled"
    with sdk.responses.stream(response_id=response_id) as again:
        assert [event.type for event in again] == kinds


def test_errors(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="gpt-4o", input="Hi", background=True, store=False)
    assert caught.value.param == "background"
    queued = sdk.responses.create(model="gpt-4o", input="Hi", background=True)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.retrieve(queued.id, stream=True)
    assert caught.value.param == "stream"
