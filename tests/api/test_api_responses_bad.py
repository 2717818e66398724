"""What is wrong with a body of the Responses API is told in that API's words."""

from __future__ import annotations

from typing import Any

import pytest
from fake_server import Client, open_client

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
ALLOWED: dict[str, Any] = {"type": "allowed_tools", "mode": "auto", "tools": []}


async def refused(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/responses", json={"input": "Hi", **fields})
    assert response.status_code == 400, response.text
    found: dict[str, Any] = response.json()["error"]
    assert f"'{found['param']}'" in found["message"]
    return found


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": [{"role": "king", "content": "x"}]}, "input.0.role"),
    ({"input": [{"content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0.image_url"),
    ({"input": {}}, "input"),
    ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input.0.name"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input.0.call_id"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.call_id"),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]},
        "input.0.arguments",
    ),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input.0.output"),
    ({"input": [{"type": "computer_call", "id": "x"}]}, "input.0.type"),
    ({"input": [{"type": "reasoning"}]}, "input"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools.0.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "hosted"}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {**ALLOWED, "tools": [5]}}, "tool_choice.tools.0.name"),
    ({"tools": [TOOL], "tool_choice": {**ALLOWED, "mode": "x"}}, "tool_choice.mode"),
    ({"text": {"format": {"type": "json_schema", "schema": 5}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "schema": {"type": "odd"}}}}, "text.format.schema"),
    ({"text": {"verbosity": "high"}}, "text.verbosity"),
    ({"include": ["file_search_call.results"]}, "include.0"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[param for _, param in REFUSED])
async def test_errors_name_fields_as_they_were_sent(fields: dict[str, Any], param: str) -> None:
    async with open_client() as client:
        assert (await refused(client, **fields))["param"] == param


def deep(levels: int) -> Any:
    value: Any = 5
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("levels", [245, 250, 252, 260, 900])
async def test_what_is_told_again_is_not_too_deep_to_write(levels: int, stream: bool) -> None:
    async with open_client() as client:
        item = {"role": "user", "content": "Hi", "more": deep(levels)}
        for fields in (
            {"input": [item]},
            {"input": "Hi", "tools": [{**TOOL, "more": deep(levels)}]},
            {"input": "Hi", "text": {"format": {"type": "text", "more": deep(levels)}}},
        ):
            response = await client.post("/responses", json={**fields, "stream": stream})
            assert response.status_code in (200, 400)
            assert "internal_error" not in response.text
            if response.status_code == 400:
                assert "levels" in response.json()["error"]["message"]


async def test_a_prompt_over_the_context() -> None:
    async with open_client() as client:
        response = await client.post("/responses", json={"input": "x" * 10_000})
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert error["param"] == "input"
        assert "max_output_tokens" in error["message"]
