"""The official client's `responses` against a live server."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from fake_server import fake_app, running_server
from openai import OpenAI
from pydantic import BaseModel

REPLY = "Hello, world! 😀"


@pytest.fixture(scope="module")
def sdk() -> Iterator[OpenAI]:
    with (
        running_server(fake_app(behaviour={"reply": REPLY})) as url,
        OpenAI(api_key="any", base_url=f"{url}/v1", max_retries=0) as opened,
    ):
        yield opened


def test_answer_and_its_next(sdk: OpenAI) -> None:
    first = sdk.responses.create(model="gpt-4o", input="Hi", instructions="Be kind.")
    assert (first.output_text, first.status) == (REPLY, "completed")
    second = sdk.responses.create(model="gpt-4o", input="And?", previous_response_id=first.id)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    assert sdk.responses.retrieve(first.id).output_text == REPLY
    items = list(sdk.responses.input_items.list(first.id))
    assert [item.type for item in items] == ["message"]
    sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(first.id)


def test_stream(sdk: OpenAI) -> None:
    text = ""
    for event in sdk.responses.create(model="gpt-4o", input="Hi", stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == REPLY
    assert event.type == "response.completed"
    assert event.response.output_text == REPLY


def test_stream_helper_of_the_client(sdk: OpenAI) -> None:
    with sdk.responses.stream(model="gpt-4o", input=[{"role": "user", "content": "Hi"}]) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == REPLY
        assert stream.get_final_response().output_text == REPLY


def test_parsed_text() -> None:
    class Answer(BaseModel):
        is_it: bool

    with (
        running_server(fake_app(behaviour={"random": True})) as url,
        OpenAI(api_key="any", base_url=url, max_retries=0) as sdk,
    ):
        parsed = sdk.responses.parse(model="gpt-4o", input="Hi", text_format=Answer, temperature=1)
    assert isinstance(parsed.output_parsed, Answer)


def test_functions() -> None:
    reply = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    with (
        running_server(fake_app(behaviour={"reply": reply})) as url,
        OpenAI(api_key="any", base_url=url, max_retries=0) as sdk,
    ):
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        answer = sdk.responses.create(
            model="gpt-4o",
            input="Hi",
            tools=[{"type": "function", "name": "weather", "parameters": schema, "strict": False}],
        )
        (call,) = answer.output
        assert call.type == "function_call"
        assert (call.name, call.arguments) == ("weather", '{"city":"Rome"}')
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        again = sdk.responses.create(
            model="gpt-4o",
            input=[{"role": "user", "content": "Hi"}, *answer.output, result],  # type: ignore[list-item]
        )
    assert again.status == "completed"


def test_errors(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="gpt-4o", input="Hi", max_tool_calls=2)
    assert caught.value.param == "max_tool_calls"
