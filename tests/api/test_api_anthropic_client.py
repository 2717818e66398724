"""Anthropic's own client against a live server."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest
from anthropic import Anthropic
from fake_server import fake_app, running_server

REPLY = "Hello, world! 😀"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.fixture(scope="module")
def sdk() -> Iterator[Anthropic]:
    app = fake_app(behaviour={"reply": REPLY}, api_key=("secret",))
    with running_server(app) as url, Anthropic(api_key="secret", base_url=url, max_retries=0) as opened:
        yield opened


def test_answer(sdk: Anthropic) -> None:
    answer = sdk.messages.create(
        model="claude", max_tokens=50, system="Be kind.", messages=[{"role": "user", "content": "Hi"}]
    )
    (block,) = answer.content
    assert block.type == "text"
    assert (block.text, answer.stop_reason) == (REPLY, "end_turn")


def test_stream(sdk: Anthropic) -> None:
    with sdk.messages.stream(
        model="claude", max_tokens=50, messages=[{"role": "user", "content": "Hi"}]
    ) as stream:
        assert "".join(stream.text_stream) == REPLY
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == len(REPLY.encode()) + 1


def test_counting(sdk: Anthropic) -> None:
    assert (
        sdk.messages.count_tokens(model="claude", messages=[{"role": "user", "content": "Hi"}]).input_tokens
        > 0
    )


def test_tools() -> None:
    with (
        running_server(fake_app(behaviour={"reply": CALL})) as url,
        Anthropic(api_key="any", base_url=url, max_retries=0) as sdk,
        sdk.messages.stream(
            model="claude",
            max_tokens=200,
            messages=[{"role": "user", "content": "Hi"}],
            tools=[{"name": "weather", "input_schema": {"type": "object"}}],
        ) as stream,
    ):
        (block,) = stream.get_final_message().content
    assert block.type == "tool_use"
    assert (block.name, block.input) == ("weather", {"city": "Rome"})


def test_errors(sdk: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        sdk.messages.create(
            model="claude", max_tokens=5, temperature=2, messages=[{"role": "user", "content": "Hi"}]
        )
    with pytest.raises(anthropic.AuthenticationError):
        sdk.with_options(api_key="wrong").messages.create(
            model="claude", max_tokens=5, messages=[{"role": "user", "content": "Hi"}]
        )
