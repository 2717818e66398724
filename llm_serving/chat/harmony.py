"""Harmony, the format of gpt-oss: each message of an answer says in its header which channel it is on.

Thoughts are `analysis`, the answer is `final`, calls of functions are `commentary` that is addressed to one:

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from llm_serving.chat.messages import Message
from llm_serving.chat.single_calls import apart
from llm_serving.chat.tools import JSON_STYLE, Tool

START, CHANNEL, CONSTRAIN = "<|start|>", "<|channel|>", "<|constrain|>"
MESSAGE, END = "<|message|>", "<|end|>"
BEGUN = f"{START}assistant"  # what an answer's headers begin with; a prompt ends with it
ANALYSIS = f"{CHANNEL}analysis{MESSAGE}"
FINAL = f"{CHANNEL}final{MESSAGE}"
PREAMBLE = f"{CHANNEL}commentary{MESSAGE}"  # of calls, for the user to read
CALL = f"{CHANNEL}commentary to=functions"  # `calls_grammar` has the rest

_CHANNEL = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_FUNCTION = re.compile(r"to=functions\.([^\s<]+)")


class Header(NamedTuple):
    """Of a message, as the model wrote it."""

    channel: str
    function: str | None  # that is called


def read_header(text: str) -> Header:
    """What stands before `<|message|>`; the address may stand before or behind the channel."""
    channel, function = _CHANNEL.search(text), _FUNCTION.search(text)
    return Header(channel[1] if channel else "", function[1] if function else None)


def as_history(messages: Sequence[Message]) -> list[Message]:
    """The same conversation as the template takes it.

    It shows a system prompt in front only, and one call a message; with a call goes one text, which it puts
    with the thoughts.
    """
    system = [message["content"] for message in messages if message["role"] == "system"]
    out = [Message(role="system", content="\n\n".join(system))] if system else []
    rest = [message for message in messages if message["role"] != "system"]
    at = 0
    while at < len(rest):
        message = rest[at]
        at += 1
        if "tool_calls" not in message:
            out.append(message)
            continue
        end = next((i for i in range(at, len(rest)) if rest[i]["role"] != "tool"), len(rest))
        out += _calls(message, rest[at:end])
        at = end
    return out


def _calls(message: Message, results: Sequence[Message]) -> list[Message]:
    """Each call with its result behind it."""
    thoughts = [text for text in (message.get("reasoning_content"), message["content"]) if text]
    out = apart(Message(role="assistant", content="", tool_calls=message["tool_calls"]), results)
    if thoughts:
        out[0]["reasoning_content"] = "\n\n".join(thoughts)
    return out


def calls_grammar(tools: Sequence[Tool]) -> str:
    """Lark: a call behind `CALL`. One is all: the model waits for its result."""
    lines = ["start: " + " | ".join(f"call{i}" for i in range(len(tools)))]
    for i, tool in enumerate(tools):
        schema: dict[str, Any] = {**tool.parameters, "x-guidance": JSON_STYLE}
        lines.append(
            f'call{i}: {json.dumps(f".{tool.name} ")} {CONSTRAIN} "json" {MESSAGE} arguments{i}\n'
            f"arguments{i}: %json {json.dumps(schema)}"
        )
    return "\n".join(lines)
