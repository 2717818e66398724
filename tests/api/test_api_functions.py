"""`functions` and `function_call`, OpenAI's older names of tools, in process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import Client, data_of, open_client

pytestmark = pytest.mark.anyio

FUNCTION = {
    "name": "weather",
    "description": "of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 5}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOOL = {"type": "function", "function": FUNCTION}
ASKED: dict[str, Any] = {
    "messages": [{"content": "Hi"}],
    "functions": [FUNCTION],
    "temperature": 1.0,
    "max_tokens": 300,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
CALLED = {"name": "weather", "arguments": '{"city":"Rome"}'}


async def answered(client: Client, **fields: Any) -> tuple[dict[str, Any], str]:
    """(message, finish reason); the stream says the same."""
    response = await client.post("/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    streamed = await client.post("/chat/completions", json={**ASKED, **fields, "stream": True})
    choices = [chunk["choices"][0] for chunk in data_of(streamed.text)[:-1]]
    calls = [part["delta"]["function_call"] for part in choices if "function_call" in part["delta"]]
    assert all("tool_calls" not in part["delta"] for part in choices)
    assert "".join(part["delta"].get("content", "") for part in choices) == (
        choice["message"]["content"] or ""
    )
    assert calls == [call for call in [choice["message"].get("function_call")] if call]
    assert choices[-1]["finish_reason"] == choice["finish_reason"]
    return choice["message"], choice["finish_reason"]


@pytest.mark.parametrize("reply", [f"Well.\n{CALL}", f"Well.\n{CALL}\n{CALL}"])
async def test_a_call(reply: str) -> None:
    async with open_client(behaviour={"reply": reply}) as client:
        message, reason = await answered(client)
        assert message == {"role": "assistant", "content": "Well.", "function_call": CALLED}
        assert reason == "function_call"
        message, reason = await answered(client, function_call="auto", parallel_tool_calls=True)
        assert (message["function_call"], reason) == (CALLED, "function_call")
        message, reason = await answered(client, function_call="none")
        assert (message, reason) == ({"role": "assistant", "content": reply}, "stop")


async def test_a_function_that_must_be_called() -> None:
    async with open_client(behaviour={"random": True}) as client:
        message, reason = await answered(client, function_call={"name": "weather"}, seed=5)
        assert message["content"] is None
        assert message["function_call"]["name"] == "weather"
        assert list(json.loads(message["function_call"]["arguments"])) == ["city"]
        assert reason == "function_call"


async def test_the_prompt_is_that_of_tools(client: Client) -> None:
    older = [
        {"content": "Hi"},
        {"role": "assistant", "content": None, "function_call": CALLED},
        {"role": "function", "name": "weather", "content": "sunny"},
    ]
    newer = [
        older[0],
        {"role": "assistant", "content": None, "tool_calls": [{"function": CALLED}]},
        {"role": "tool", "content": "sunny"},
    ]
    prompts = [
        (await client.post("/apply-template", json={"messages": messages, "tools": [TOOL]})).json()["prompt"]
        for messages in (older, newer)
    ]
    assert prompts[0] == prompts[1]
    assert "<tool_response>\nsunny\n</tool_response>" in prompts[0]
    bodies: list[dict[str, Any]] = [
        {"messages": older, "functions": [FUNCTION]},
        {"messages": newer, "tools": [TOOL]},
    ]
    counts = [
        (await client.post("/chat/completions/input_tokens", json=body)).json()["input_tokens"]
        for body in bodies
    ]
    assert counts[0] == counts[1] > 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [FUNCTION, 5]}, "functions.1"),
        ({"functions": [FUNCTION, {}]}, "functions.1.name"),
        ({"functions": [FUNCTION, FUNCTION]}, "functions.1.name"),
        ({"functions": [{**FUNCTION, "parameters": 5}]}, "functions.0.parameters"),
        ({"functions": [FUNCTION] * 129}, "functions"),
        ({"function_call": {"name": "x"}}, "function_call.name"),
        ({"function_call": {}}, "function_call.name"),
        ({"function_call": "required"}, "function_call"),
        ({"function_call": {"name": "weather"}, "functions": None}, "function_call.name"),
        ({"tools": [TOOL]}, "functions"),
        ({"tool_choice": "auto"}, "functions"),
        ({"tools": [TOOL], "functions": None, "function_call": "none"}, "function_call"),
        ({"function_call": {"name": "weather"}, "regex": "a"}, "regex"),
        (
            {"functions": [{"name": "f", "parameters": {"type": "x"}}], "function_call": {"name": "f"}},
            "functions",
        ),
    ],
)
async def test_errors_speak_of_functions(client: Client, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    if "tools" not in fields and "tool_choice" not in fields:
        assert not any(word in error["message"] for word in ("tools", "tool_choice"))
