"""Anthropic's Messages API, in process: turns and blocks in, blocks out, and its events in their order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import Client, kinds, open_client, typed_events

pytestmark = pytest.mark.anyio

REPLY = "Hello, world! 😀"
SAYS = {"reply": REPLY}
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 300}
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


async def answered(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/messages", json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def streamed(client: Client, **fields: Any) -> list[dict[str, Any]]:
    response = await client.post("/messages", json={**ASKED, "stream": True, **fields})
    return typed_events(response.text)


async def counted(client: Client, **fields: Any) -> int:
    response = await client.post("/messages/count_tokens", json=fields)
    assert response.status_code == 200, response.text
    return int(response.json()["input_tokens"])


async def test_whole_answer() -> None:
    async with open_client(behaviour=SAYS) as client:
        answer = await answered(client)
        again = await answered(client)
        assert await counted(client, messages=ASKED["messages"]) == answer["usage"]["input_tokens"]
    assert answer["id"].startswith("msg_")
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "fake")
    assert answer["content"] == [{"type": "text", "text": REPLY}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    assert answer["usage"]["output_tokens"] == len(REPLY.encode()) + 1
    first, second = answer["usage"], again["usage"]
    assert second["input_tokens"] + second["cache_read_input_tokens"] == first["input_tokens"]


async def test_events_of_a_text() -> None:
    async with open_client(behaviour=SAYS) as client:
        events = await streamed(client)
    assert kinds(events) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert "".join(event["delta"]["text"] for event in events if "text" in event.get("delta", {})) == REPLY
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["usage"]["input_tokens"] == events[-2]["usage"]["input_tokens"] > 0
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


@pytest.mark.parametrize(
    ("fields", "reason", "sequence", "text"),
    [
        ({"max_tokens": 3}, "max_tokens", None, "Hel"),
        ({"stop_sequences": ["xyz", "wor", "or"]}, "stop_sequence", "wor", "Hello, "),
    ],
)
async def test_why_it_ended(fields: dict[str, Any], reason: str, sequence: str | None, text: str) -> None:
    async with open_client(behaviour=SAYS) as client:
        answer = await answered(client, **fields)
        *_, delta, _ = await streamed(client, **fields)
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)
    assert answer["content"] == [{"type": "text", "text": text}]
    assert delta["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


async def test_calls() -> None:
    async with open_client(behaviour={"reply": f"Let me see.\n{CALL}"}) as client:
        answer = await answered(client, tools=[TOOL])
        events = await streamed(client, tools=[TOOL])
    text, call = answer["content"]
    assert text == {"type": "text", "text": "Let me see."}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "weather", {"city": "Rome"})
    assert answer["stop_reason"] == "tool_use"
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1]
    partial = [event["delta"] for event in events if event["type"] == "content_block_delta"][-1]
    assert partial["type"] == "input_json_delta"
    assert json.loads(partial["partial_json"]) == {"city": "Rome"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_calls_that_are_asked_for_and_their_results() -> None:
    strict = {**TOOL, "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}}
    async with open_client(behaviour={"random": True}) as client:
        for choice in (
            {"type": "any", "disable_parallel_tool_use": True},
            {"type": "tool", "name": "weather"},
        ):
            answer = await answered(client, tools=[strict], tool_choice=choice, temperature=1)
            (call,) = answer["content"]
            assert (call["name"], call["input"]) == ("weather", {})
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": "sunny"}
        turns = [*ASKED["messages"], {"role": "assistant", "content": [call]}]
        plain = await counted(client, messages=[*turns, {"role": "user", "content": [result]}])
        blocks = {**result, "content": [{"type": "text", "text": "sunny"}]}
        assert await counted(client, messages=[*turns, {"role": "user", "content": [blocks]}]) == plain
        failed = {**result, "is_error": True}
        more = {"type": "text", "text": "And?"}
        assert await counted(client, messages=[*turns, {"role": "user", "content": [failed, more]}]) > plain


async def test_system_prompt() -> None:
    async with open_client() as client:
        none = await counted(client, messages=ASKED["messages"])
        text = await counted(client, messages=ASKED["messages"], system="Be kind.")
        part = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
        assert await counted(client, messages=ASKED["messages"], system=part) == text > none


async def test_what_a_client_tells_its_server_of_itself_is_no_prompt() -> None:
    kind, own = (
        {"type": "text", "text": "Be kind."},
        {"type": "text", "text": "x-anthropic-billing-header: a=1;"},
    )
    async with open_client() as client:
        plain = await counted(client, messages=ASKED["messages"], system=[kind])
        assert await counted(client, messages=ASKED["messages"], system=[own, kind]) == plain
        none = await counted(client, messages=ASKED["messages"])
        assert await counted(client, messages=ASKED["messages"], system=[own]) == none


async def test_the_system_may_speak_between_turns() -> None:
    turns = [*ASKED["messages"], {"role": "system", "content": "Be kind."}]
    blocks = [*ASKED["messages"], {"role": "system", "content": [{"type": "text", "text": "Be kind."}]}]
    async with open_client(behaviour=SAYS) as client:
        none = await counted(client, messages=ASKED["messages"])
        assert await counted(client, messages=blocks) == await counted(client, messages=turns) > none
        assert (await answered(client, messages=turns))["content"] == [{"type": "text", "text": REPLY}]


@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, {"type": "disabled"}, None])
async def test_effort_is_a_wish_where_the_model_need_not_think(thinking: Any) -> None:
    async with open_client(behaviour=SAYS) as client:
        for effort in ("low", "max"):
            answer = await answered(client, thinking=thinking, output_config={"effort": effort})
            assert answer["content"] == [{"type": "text", "text": REPLY}]
        begun = [*ASKED["messages"], {"role": "assistant", "content": "I"}]
        await answered(client, messages=begun, thinking=thinking, output_config={"effort": "low"})


async def test_an_answer_of_a_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [5]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    async with open_client(behaviour={"random": True}) as client:
        config = {"format": {"type": "json_schema", "schema": schema}}
        answer = await answered(client, output_config=config, temperature=1)
    assert json.loads(answer["content"][0]["text"]) == {"n": 5}


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


USE = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
DEEP: dict[str, Any] = {}
for _ in range(65):
    DEEP = {"a": DEEP, "b": 5}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"messages": ["x"]}, "messages.0"),
    (said("x", "tool"), "messages.0.role"),
    (said(None), "messages.0.content"),
    (said([{"type": "image"}]), "messages.0.content.0.source"),
    (said([5]), "messages.0.content.0"),
    (said([USE]), "messages.0.content.0"),
    (said([{"type": "text", "text": 5}]), "messages.0.content.0.text"),
    (said([{"type": "tool_use", "id": "a", "input": {}}], "assistant"), "messages.0.content.0.name"),
    (
        said([{"type": "tool_use", "id": "a", "name": "f", "input": 5}], "assistant"),
        "messages.0.content.0.input",
    ),
    (said([{**USE, "input": DEEP}], "assistant"), "messages.0.content.0.input"),
    (said([USE] * 129, "assistant"), "messages.0.content"),
    (said([{"type": "tool_result"}]), "messages.0.content.0.tool_use_id"),
    (said([{"type": "tool_result", "tool_use_id": "a", "content": 5}]), "messages.0.content.0.content"),
    (said("x\n", "assistant"), "messages.0.content"),
    (said([{"type": "text", "text": "x "}], "assistant"), "messages.0.content"),
    (said([USE], "assistant"), "messages.0.content"),
    ({"system": 5}, "system"),
    ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
    ({"output_config": {"effort": "extreme"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "odd"}}}},
        "output_config.format.schema",
    ),
    ({"output_config": {"task_budget": {"total": 5}}}, "output_config.task_budget"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
    ({"thinking": {"type": "enabled"}, "output_config": {"effort": "low"}}, "thinking"),
    ({"thinking": {"type": "adaptive", "display": "loud"}}, "thinking.display"),
    (said([{"type": "image"}], "system"), "messages.0.content.0"),
    ({"tools": [5]}, "tools.0"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
    ({"tools": [{"name": "f", "input_schema": 5}]}, "tools.0.input_schema"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[param for _, param in REFUSED])
async def test_errors_name_fields_as_they_were_sent(fields: dict[str, Any], param: str) -> None:
    async with open_client() as client:
        response = await client.post("/messages", json={**ASKED, **fields})
    assert response.status_code == 400
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert f"'{param}'" in body["error"]["message"]
    assert body["request_id"] == response.headers["x-request-id"]


async def test_an_error_in_a_stream() -> None:
    async with open_client(behaviour={"fail_at_step": 5, "step_seconds": 0.005}) as client:
        *_, last = await streamed(client)
        assert last["type"] == "error"
        assert last["error"]["type"] == "overloaded_error"
        response = await client.post("/messages", json=ASKED)
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "overloaded_error"
        assert "retry-after" in response.headers
