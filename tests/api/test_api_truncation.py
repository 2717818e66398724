"""Conversations that are too long, less their oldest turns, for who asks for that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fake_server import Client, data_of, fake_loader, open_client
from patience import until

from llm_serving.chat.template import ChatTemplate
from llm_serving.config import Settings
from llm_serving.service.model import ChatModel
from llm_serving.service.shortening import SHARE

pytestmark = pytest.mark.anyio

CONTEXT = 400  # bytes, of the fake model's tokens
SYSTEM = {"role": "system", "content": "RULES"}
END = {"role": "user", "content": "<end>"}
TEMPLATE = "{% for m in messages %}[{{ m.role }}:{{ m.content }}{{ m.tool_calls or '' }}]{% endfor %}"


def turn(number: int) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"<q{number}>" + "x" * 4},
        {"role": "assistant", "content": f"<a{number}>" + "y" * 4},
    ]


def conversation(count: int) -> list[dict[str, Any]]:
    return [
        SYSTEM,
        *(message for i in range(count) for message in turn(i)),
        {"role": "user", "content": "<end>"},
    ]


def load(settings: Settings) -> ChatModel:
    return replace(fake_loader()(settings), template=ChatTemplate(TEMPLATE))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with open_client(load, context_length=CONTEXT) as opened:
        yield opened


async def ask(client: Client, path: str = "/chat/completions", **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response


def left_out(response: Any) -> int:
    return int(response.headers.get("x-truncated-messages", 0))


async def test_what_fits_is_whole(client: Client) -> None:
    answer = await ask(client, messages=conversation(2), truncation="auto", max_tokens=1)
    assert left_out(answer) == 0
    whole = await ask(client, messages=conversation(2), max_tokens=1)
    assert answer.json()["usage"]["prompt_tokens"] == whole.json()["usage"]["prompt_tokens"]


async def test_it_is_refused_unless_somebody_asks(client: Client) -> None:
    for truncation in (None, "disabled"):
        body = {"messages": conversation(20), "truncation": truncation}
        response = await client.post("/chat/completions", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_the_oldest_turns_go_and_the_same_ones_for_a_while(client: Client) -> None:
    """With each turn a prompt is longer, until a quarter of the context goes at once."""
    gone = []
    for count in range(2, 60):
        answer = await ask(client, messages=conversation(count), truncation="auto", max_tokens=5)
        tokens = answer.json()["usage"]["prompt_tokens"]
        assert tokens <= CONTEXT - 5
        assert left_out(answer) % 2 == 0
        gone.append(left_out(answer))
    assert gone == sorted(gone)
    steps = [after - before for before, after in zip(gone, gone[1:], strict=False) if after != before]
    assert len(steps) < len(gone) / 2.5
    assert max(gone) > 40


async def test_the_next_request_finds_its_prompt(client: Client) -> None:
    first = await ask(client, messages=conversation(20), truncation="auto", max_tokens=1)
    for count in range(21, 26):
        again = await ask(client, messages=conversation(count), truncation="auto", max_tokens=1)
        if left_out(again) == left_out(first):
            break
        first = again
    before = first.json()["usage"]["prompt_tokens"] - len("[user:<end>]")
    assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] >= before - 16


async def test_what_must_stay_stays(client: Client) -> None:
    messages = conversation(20)
    prompt = (await ask(client, "/apply-template", messages=messages)).json()["prompt"]
    assert prompt.startswith("[system:RULES][user:<q0>")
    answer = await ask(client, messages=messages, truncation="auto", max_tokens=1)
    kept = [SYSTEM, *messages[1 + left_out(answer) :]]
    assert kept[1]["role"] == "user"
    same = await ask(client, messages=kept, max_tokens=1)
    assert same.json()["usage"]["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]


async def test_room_for_the_answer_is_kept_up_to_a_share(client: Client) -> None:
    few = await ask(client, messages=conversation(20), truncation="auto", max_tokens=1)
    for most in (CONTEXT // SHARE, 10 * CONTEXT):
        many = await ask(client, messages=conversation(20), truncation="auto", max_tokens=most)
        assert many.json()["usage"]["prompt_tokens"] <= CONTEXT - CONTEXT // SHARE
        assert left_out(many) >= left_out(few)


async def test_steps_of_a_long_turn_go_with_their_results(client: Client) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    step = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "r" * 40},
    ]
    messages = [SYSTEM, {"role": "user", "content": "<task>"}, *(step * 12)]
    answer = await ask(client, messages=messages, truncation="auto", max_tokens=5)
    assert left_out(answer) > 0
    assert left_out(answer) % 2 == 0
    kept = [*messages[:2], *messages[2 + left_out(answer) :]]
    same = await ask(client, messages=kept, max_tokens=5)
    assert same.json()["usage"]["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]


@pytest.mark.parametrize("text", ["z" * 500, "z" * 500_000])
async def test_a_last_message_that_is_too_long_alone_is_refused(client: Client, text: str) -> None:
    for messages in (
        [{"role": "user", "content": text}],
        [*conversation(3), {"role": "user", "content": text}],
    ):
        body = {"messages": messages, "truncation": "auto"}
        response = await client.post("/chat/completions", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_an_old_message_of_any_length_can_go(client: Client) -> None:
    messages = [{"role": "user", "content": "z" * 500_000}, *conversation(1)[1:]]
    answer = await ask(client, messages=messages, truncation="auto", max_tokens=5)
    assert left_out(answer) == 1


async def test_functions_that_fill_the_context_leave_little_room() -> None:
    """They stay, however many turns must go for them; what does not fit with them alone is refused."""
    function = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    told = {"tools": [{"type": "function", "function": function}]}
    async with open_client(load, context_length=4 * CONTEXT) as client:
        body = {"messages": conversation(60), "truncation": "auto", "max_tokens": 5}
        assert left_out(await ask(client, **body, **told)) > left_out(await ask(client, **body))
        function["description"] = "d" * 5 * CONTEXT
        response = await client.post("/chat/completions", json={**body, **told})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_responses_tell_it_and_keep_all(client: Client) -> None:
    first = await ask(client, "/responses", input=conversation(20), truncation="auto", max_output_tokens=16)
    assert first.json()["truncation"] == "auto"
    assert left_out(first) > 0
    body = {"previous_response_id": first.json()["id"], "input": "<more>", "max_output_tokens": 16}
    second = await ask(client, "/responses", **body, truncation="auto")
    assert left_out(second) >= left_out(first)
    refused = await client.post("/responses", json=body)
    assert refused.status_code == 400
    assert "truncation" in json.dumps((await ask(client, "/responses", input="Hi")).json())
    later = await ask(client, "/responses", **body, truncation="auto", background=True)
    assert left_out(later) == left_out(second)


async def test_the_log_tells_it(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    answer = await ask(client, messages=conversation(20), truncation="auto", max_tokens=1)
    await until(lambda: f"truncated={left_out(answer)}" in caplog.text)


async def test_streams_tell_it_before_the_first_byte(client: Client) -> None:
    body = {"messages": conversation(20), "truncation": "auto", "stream": True, "max_tokens": 3}
    answer = await ask(client, **body)
    assert left_out(answer) > 0
    assert data_of(answer.text)


async def test_ollamas_clients_ask_by_their_own_name(client: Client) -> None:
    body = {"messages": conversation(20), "stream": False, "options": {"num_predict": 3}}
    assert left_out(await ask(client, "/api/chat", **body, truncate=True)) > 0
    for more in ({}, {"truncate": False}):
        assert (await client.post("/api/chat", json={**body, **more})).status_code == 400
