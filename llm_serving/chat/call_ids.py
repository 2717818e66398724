"""Ids of a history's calls, for templates that show them to models which have learnt a form of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm_serving.chat.messages import Message
from llm_serving.chat.single_calls import results_of


def with_ids(messages: Sequence[Message], id_of: Callable[[str, str], str]) -> list[Message]:
    """The same conversation with ids of a function's name and the call's place among all calls.

    Results stand in the order of their calls: some templates go by it.
    """
    out: list[Message] = []
    num_calls = at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if "tool_calls" not in message:
            out.append(message)
            continue
        calls, results = message["tool_calls"], results_of(messages, at)
        at += len(results)
        ids = [id_of(call["function"]["name"], str(num_calls + i)) for i, call in enumerate(calls)]
        num_calls += len(ids)
        told = [{**call, "id": new} for call, new in zip(calls, ids, strict=True)]
        out.append(Message(**{**message, "tool_calls": told}))
        places = {call["id"]: i for i, call in enumerate(calls) if "id" in call}
        found = [(places.get(result.get("tool_call_id", ""), i), result) for i, result in enumerate(results)]
        for place, result in sorted(found, key=lambda each: each[0]):
            out.append(
                Message(**{**result, "tool_call_id": ids[min(place, len(ids) - 1)]}) if ids else result
            )
    return out
