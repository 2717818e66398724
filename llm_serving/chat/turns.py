"""Which messages of a conversation can be left out, oldest first, so that what remains is still one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llm_serving.chat.messages import Message


def leavable(messages: Sequence[Message]) -> list[list[int]]:
    """Groups of places, oldest first: any number of the first groups may be left out.

    A group is what the user said and all that came of it; of the last such turn, which is what is to be
    answered, a group is what the model said and what its calls gave. Never among them: system prompts, what
    the user said last, and the last group of all, which is what goes on.
    """
    spoken = [i for i, message in enumerate(messages) if message["role"] != "system"]
    begins = [i for i in spoken if messages[i]["role"] == "user" and not _shows_a_result(messages, i)]
    last = max(begins, default=-1)
    turns = _groups([i for i in spoken if i < last], set(begins))
    steps = [i for i in spoken if messages[i]["role"] == "assistant"]
    return turns + _groups([i for i in spoken if i > last], set(steps))[:-1]


def _shows_a_result(messages: Sequence[Message], i: int) -> bool:
    """Whether it is nothing but pictures, right behind what a call gave: they belong to that."""
    return i > 0 and messages[i - 1]["role"] == "tool" and not messages[i]["content"]


def _groups(places: Sequence[int], begins: Collection[int]) -> list[list[int]]:
    """Cut before each place of `begins`."""
    groups: list[list[int]] = []
    for i in places:
        if i in begins or not groups:
            groups.append([])
        groups[-1].append(i)
    return groups
