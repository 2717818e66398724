"""Which messages of a conversation can be left out, oldest first, so that what remains is still one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from llm_serving.chat.messages import Message


def leavable(messages: Sequence[Message]) -> list[list[int]]:
    """Groups of places, oldest first: any number of the first groups may be left out.

    A group is what the user said and all that came of it; of the last such turn, which is what is to be
    answered, a group is what the model said and what its calls gave. Never among them: system prompts, what
    the user said last, and the last group of all, which is what goes on.
    """
    spoken = [i for i, message in enumerate(messages) if message["role"] != "system"]
    last = max((i for i in spoken if messages[i]["role"] == "user"), default=-1)
    turns = _groups([i for i in spoken if i < last], messages, "user")
    steps = _groups([i for i in spoken if i > last], messages, "assistant")
    return turns + steps[:-1]


def _groups(places: Sequence[int], messages: Sequence[Message], role: str) -> list[list[int]]:
    """Cut before each message of this role."""
    count = 0
    groups = []
    for i in places:
        count += messages[i]["role"] == role
        groups.append((count, i))
    return [[i for _, i in group] for _, group in groupby(groups, key=lambda pair: pair[0])]
