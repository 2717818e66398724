"""Several system prompts, or late ones, for templates that take one at the beginning. Agents send them so."""

from __future__ import annotations

from collections.abc import Sequence

from llm_serving.chat.messages import Message
from llm_serving.chat.pictures import Part

_GAP = "\n\n"


def folded(messages: Sequence[Message]) -> list[Message] | None:
    """One system prompt at most, in front; None if that is how they are.

    What stands in front is joined. Later ones are said by the user, with what the user says there: two turns
    of one role are what such templates do not take either.
    """
    num_first = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    if num_first <= 1 and all(message["role"] != "system" for message in messages[num_first:]):
        return None
    out: list[Message] = []
    joins = True  # the message at hand goes on with the one before
    for i, message in enumerate(messages):
        is_late = i >= num_first and message["role"] == "system"
        told = Message(role="user", content=message["content"]) if is_late else message
        if out and out[-1]["role"] == told["role"] and (is_late or joins):
            out[-1] = _joined(out[-1], told)
        else:
            out.append(told)
        joins = is_late or i + 1 < num_first
    return out


def system_texts(messages: Sequence[Message]) -> list[str]:
    """What systems say."""
    return [message["content"] for message in messages if message["role"] == "system"]


def _joined(first: Message, second: Message) -> Message:
    joined = Message(role=first["role"], content=f"{first['content']}{_GAP}{second['content']}")
    if "parts" in first or "parts" in second:
        parts: list[Part] = [
            *first.get("parts", [first["content"]]),
            *second.get("parts", [second["content"]]),
        ]
        joined["parts"] = parts
    return joined
