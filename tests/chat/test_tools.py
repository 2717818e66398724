"""How a model is told of functions, and what may be said of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_serving.chat.messages import Message
from llm_serving.chat.notations.words import in_words
from llm_serving.chat.tools import Tool, normalize_tools
from llm_serving.errors import InvalidRequest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather {now}.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
USER = Message(role="user", content="Hi")


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value or 1}
    return value


def test_definitions_come_as_they_went() -> None:
    (tool,) = normalize_tools([WEATHER])
    assert tool.definition() == WEATHER
    assert not tool.is_strict
    assert normalize_tools([function(strict=True)]) == [
        Tool("f", "", {"type": "object", "properties": {}}, True)
    ]


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        (["f"], "tools.0"),
        ([{"type": "web_search"}], "tools.0"),
        ([{"function": {"name": "f"}}], "tools.0"),
        ([function(), function(name="a b")], "tools.1.function.name"),
        ([function(name="<|im_end|>")], "tools.0.function.name"),
        ([function(name=None)], "tools.0.function.name"),
        ([function(), function()], "tools.1.function.name"),
        ([function(description=5)], "tools.0.function.description"),
        ([function(parameters=[])], "tools.0.function.parameters"),
        ([function(strict="yes")], "tools.0.function.strict"),
        ([function(parameters=nested(65))], "tools.0.function.parameters"),
        ([function(name=f"f{i}") for i in range(129)], "tools"),
    ],
)
def test_errors_name_the_field(tools: list[Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match=param) as caught:
        normalize_tools(tools)
    assert caught.value.param == param


def test_functions_are_told_in_the_system_prompt() -> None:
    tools = normalize_tools([WEATHER])
    system, user = in_words([USER], tools)
    assert system["role"] == "system"
    assert json.dumps(WEATHER) in system["content"]
    assert user == USER
    own, _ = in_words([Message(role="system", content="Be brief."), USER], tools)
    assert own["content"].startswith("Be brief.\n\nYou may call functions")
    (first,) = in_words([Message(role="system", content="Be brief."), USER], tools, has_system=False)
    assert first["role"] == "user"
    assert first["content"] == f"{own['content']}\n\nHi"


def test_calls_and_results_become_text() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": "ü"}}}
    conversation = [
        USER,
        Message(role="assistant", content="Let me see.", tool_calls=[call, call]),
        Message(role="tool", content="1", tool_call_id="x"),
        Message(role="tool", content="2"),
        Message(role="assistant", content="Done."),
        USER,
    ]
    told = '<tool_call>\n{"name": "f", "arguments": {"a": "ü"}}\n</tool_call>'
    assert in_words(conversation, []) == [
        USER,
        Message(role="assistant", content=f"Let me see.\n{told}\n{told}"),
        Message(
            role="user",
            content="<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>",
        ),
        Message(role="assistant", content="Done."),
        USER,
    ]
