"""API messages become roles and texts, or an error that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from llm_serving.chat.messages import Message, join_contents, normalize_messages, with_system_prompt
from llm_serving.errors import InvalidRequest

CALL = {"id": "1", "function": {"name": "f", "arguments": "{}"}}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": "hi"}, {"role": "user", "content": "hi"}),
        ({"content": "hi"}, {"role": "user", "content": "hi"}),
        ({"role": None, "content": ""}, {"role": "user", "content": ""}),
        ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
        ({"role": "user", "content": [text("a"), text(" b")]}, {"role": "user", "content": "a\n b"}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        (
            {"role": "assistant", "content": None, "tool_calls": [], "refusal": None},
            {"role": "assistant", "content": ""},
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "assistant", "content": "No."},
        ),
        (
            {"role": "tool", "tool_call_id": "1", "content": "42"},
            {"role": "tool", "content": "42", "tool_call_id": "1"},
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}],
            },
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "id": "1", "function": {"name": "f", "arguments": {"a": 1}}}
                ],
            },
        ),
        (
            {
                "role": "assistant",
                "content": "x",
                "tool_calls": [{"function": {"name": "f", "arguments": ""}}],
            },
            {
                "role": "assistant",
                "content": "x",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
            },
        ),
        ({"role": "user", "name": "Zoë-1", "content": ""}, {"role": "user", "name": "Zoë-1", "content": ""}),
    ],
)
def test_messages_become_plain(message: dict[str, Any], expected: dict[str, str]) -> None:
    assert normalize_messages([message]) == [expected]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages.1"),
        (None, "messages.1"),
        ({"role": "robot", "content": "hi"}, "messages.1.role"),
        ({"role": 3, "content": "hi"}, "messages.1.role"),
        ({"role": ["user"], "content": "hi"}, "messages.1.role"),
        ({"role": "user"}, "messages.1.content"),
        ({"role": "user", "content": None}, "messages.1.content"),
        ({"role": "user", "content": 3}, "messages.1.content"),
        ({"role": "user", "content": text("a")}, "messages.1.content"),
        ({"role": "user", "content": ["a"]}, "messages.1.content.0"),
        ({"role": "user", "content": [text("a"), {"type": "image_url"}]}, "messages.1.content.1.image_url"),
        ({"role": "user", "content": [{"text": "a"}]}, "messages.1.content.0"),
        ({"role": "user", "content": [{"type": ["text"], "text": "a"}]}, "messages.1.content.0"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "messages.1.content.0.text"),
        ({"role": "user", "content": "a", "name": "<|im_end|>"}, "messages.1.name"),
        ({"role": "user", "content": "a", "name": ""}, "messages.1.name"),
        ({"role": "user", "content": "a", "name": {"a": 1}}, "messages.1.name"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages.1.tool_calls.0"),
        ({"role": "assistant", "function_call": [5]}, "messages.1.function_call"),
        ({"role": "assistant", "function_call": {"name": 5}}, "messages.1.function_call"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages.1.function_call.arguments"),
        ({"content": "x", "function_call": {"name": "f"}}, "messages.1.function_call"),
        (
            {"role": "assistant", "function_call": {"name": "f"}, "tool_calls": [CALL]},
            "messages.1.function_call",
        ),
        ({"role": "assistant", "content": None, "tool_calls": "f"}, "messages.1.tool_calls"),
        ({"role": "assistant", "tool_calls": [CALL] * 129}, "messages.1.tool_calls"),
        ({"role": "user", "content": "", "tool_calls": [CALL]}, "messages.1.tool_calls"),
        ({"role": "tool", "content": "", "tool_call_id": 5}, "messages.1.tool_call_id"),
        *(
            (
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]},
                "messages.1.tool_calls.0.function.arguments",
            )
            for arguments in (
                "{",
                "[]",
                '"x"',
                None,
                5,
                "NaN",
                '{"a": Infinity}',
                '{"a":' * 500 + "1" + "}" * 500,
            )
        ),
    ],
)
def test_errors_name_the_field(message: Any, param: str) -> None:
    with pytest.raises(InvalidRequest, match=param) as caught:
        normalize_messages([{"content": "first"}, message])
    assert caught.value.param == param


def test_there_must_be_a_message() -> None:
    with pytest.raises(InvalidRequest, match="at least one message") as caught:
        normalize_messages([])
    assert caught.value.param == "messages"


def test_the_older_names_of_calls_and_results() -> None:
    call = {"name": "f", "arguments": '{"a": 1}'}
    assert normalize_messages(
        [
            {"role": "assistant", "content": None, "function_call": call, "tool_calls": None},
            {"role": "function", "name": "f", "content": "5"},
        ]
    ) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "name": "f", "content": "5"},
    ]


def test_the_default_system_prompt_comes_first_unless_there_is_one() -> None:
    user, system = Message(role="user", content="hi"), Message(role="system", content="own")
    assert with_system_prompt([user], "default") == [Message(role="system", content="default"), user]
    assert with_system_prompt([user], "") == [user]
    assert with_system_prompt([user, system], "default") == [user, system]
    own = [user]
    assert with_system_prompt(own, "") is not own


def test_contents_are_joined_for_models_without_a_template() -> None:
    assert join_contents(normalize_messages([{"content": "a"}, {"content": "b"}])) == "a\nb"
    assert join_contents(normalize_messages([{"content": "Translate: x."}])) == "Translate: x."
