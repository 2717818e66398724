"""Histories for templates that show one call a message."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from llm_serving.chat.messages import Message


def one_call_a_message(messages: Sequence[Message]) -> list[Message]:
    """The same conversation with each call in a message of its own, and its result behind it."""
    out: list[Message] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if "tool_calls" not in message:
            out.append(message)
            continue
        results = results_of(messages, at)
        out += apart(message, results)
        at += len(results)
    return out


def results_of(messages: Sequence[Message], at: int) -> Sequence[Message]:
    """What calls before `at` gave back."""
    end = next((i for i in range(at, len(messages)) if messages[i]["role"] != "tool"), len(messages))
    return messages[at:end]


def apart(message: Message, results: Sequence[Message]) -> list[Message]:
    """Each call of `message` with its result behind it; what it says goes with the first."""
    calls = message["tool_calls"]
    order = {call["id"]: i for i, call in enumerate(calls) if "id" in call}
    results = sorted(results, key=lambda result: order.get(result.get("tool_call_id", ""), len(calls)))
    out: list[Message] = []
    for call, result in zip_longest(calls, results):
        if call is not None:
            first = message if not out else Message(role="assistant", content="")
            out.append(Message(**{**first, "tool_calls": [call]}))
        if result is not None:
            out.append(result)
    return out
