"""A conversation that does not fit the model, less its oldest turns, where a request asks for that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import orjson

from llm_serving.chat.messages import Message
from llm_serving.chat.pictures import pictures_in
from llm_serving.chat.turns import leavable
from llm_serving.errors import ContextLengthExceeded
from llm_serving.service.model import ChatModel
from llm_serving.service.rendering import Conversation
from llm_serving.service.vision import Prompt

SHARE = 4  # of a context: so much is kept for the answer at most, and is left out at a time
_CHARS_A_TOKEN = 16  # more than that in the whole of a conversation, and it is not even tried
_TOKENS_A_MESSAGE = 8  # about what a template puts around it
_TOKENS_A_PICTURE = 256  # about


async def shorten(
    model: ChatModel,
    conversation: Conversation,
    max_tokens: int,
    read: Callable[[Conversation], Awaitable[Prompt]],
) -> tuple[Conversation, int]:
    """As much of it as the model takes, and how many messages are left out; if possible there is room for an
    answer of `max_tokens`.

    What is left out is a quarter of the context at a time, counted from the first message on: so the next
    request, which is longer, mostly begins where this one does, and finds its prompt in the cache. Where
    leaving out helps nothing, nothing is. Raises: what `read` raises, but for images that are too many.
    """
    messages = conversation.messages

    async def count(messages: Sequence[Message]) -> int:
        try:
            return len((await read(replace(conversation, messages=messages))).ids)
        except ContextLengthExceeded:
            return most

    most = model.engine.max_context
    room = most - min(max_tokens, most // SHARE)
    is_short = sum(len(message["content"]) for message in messages) <= _CHARS_A_TOKEN * most
    if is_short and await count(messages) <= room:
        return conversation, 0
    groups = leavable(messages)
    sizes = await asyncio.to_thread(lambda: [_size(model, message) for message in messages])
    gone = [0, *accumulate(sum(sizes[i] for i in group) for group in groups)]
    ends = _ends(gone, max(1, most // SHARE))

    def without(num_groups: int) -> list[Message]:
        out = {i for group in groups[:num_groups] for i in group}
        return [message for i, message in enumerate(messages) if i not in out]

    async def fits(at: int) -> bool:
        return await count(without(ends[at])) <= room

    least = await count(without(len(groups)))  # what stays in any case, functions that are told too
    if least > room:
        at = len(ends) - 1 if least < most else 0
    else:  # counting a prompt costs as much as making it, so it begins where it should fit
        at = next(at for at, end in enumerate(ends) if least + gone[-1] - gone[end] <= room)
        while not await fits(at):
            at += 1
        while at > 0 and await fits(at - 1):
            at -= 1
    left = without(ends[at])
    return replace(conversation, messages=left), len(messages) - len(left)


def _ends(gone: Sequence[int], step: int) -> list[int]:
    """How many groups may go together: none, those with which another `step` is full, and all."""
    filled = [i for i in range(1, len(gone)) if gone[i] // step > gone[i - 1] // step]
    return sorted({0, *filled, len(gone) - 1})


def _size(model: ChatModel, message: Message) -> int:
    """About how many tokens it takes, whatever stands around it."""
    text = message["content"] + (orjson.dumps(calls).decode() if (calls := message.get("tool_calls")) else "")
    pictures = _TOKENS_A_PICTURE * len(pictures_in([message]))
    return _TOKENS_A_MESSAGE + len(model.tokenizer.encode(text)) + pictures
