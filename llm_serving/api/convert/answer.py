"""What all answers share: their head, their usage, and the fold of a stream into one text a choice."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llm_serving.api.convert.logprobs import ShownToken, visible_of
from llm_serving.api.convert.tool_calls import CallReader, ToolCall
from llm_serving.engine.request import FinishReason
from llm_serving.service.generation import Generation, Usage


@dataclass(frozen=True, slots=True)
class Head:
    """Who answers: the fields that every object of one response repeats."""

    id: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def fields(self, kind: str) -> dict[str, Any]:
        """The start of a response object of this `kind`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def new_id(prefix: str, between: str = "-") -> str:
    """`prefix-` and 32 random hex digits."""
    return f"{prefix}{between}{os.urandom(16).hex()}"


def head_of(generation: Generation, request_id: str) -> Head:
    return Head(request_id, generation.model.name, generation.model.fingerprint)


def usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.num_prompt,
        "completion_tokens": usage.num_completion,
        "total_tokens": usage.num_prompt + usage.num_completion,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached},
    }


class Answer(NamedTuple):
    """One choice, whole."""

    text: str
    finish_reason: str
    tokens: list[ShownToken]  # if log-probabilities were asked for
    calls: list[ToolCall]


def finish_reason(reason: FinishReason | None, readers: Sequence[CallReader], index: int) -> str:
    """What the API calls it; an answer that ends with calls ended for them."""
    if reason in (None, FinishReason.STOP) and readers and readers[index].num_calls:
        return "function_call" if readers[index].is_older else "tool_calls"
    return reason.value if reason else "stop"


async def fold(generation: Generation, readers: Sequence[CallReader] = ()) -> list[Answer]:
    """Every choice; the same events that a stream would show."""
    texts: list[list[str]] = [[] for _ in range(generation.num_choices)]
    tokens: list[list[ShownToken]] = [[] for _ in range(generation.num_choices)]
    calls: list[list[ToolCall]] = [[] for _ in range(generation.num_choices)]
    visible = visible_of(generation)
    async for batch in generation:
        for index, event in batch:
            text = event.text
            if readers:
                text, found = readers[index].feed(text, is_last=event.finish_reason is not None)
                calls[index] += found
            texts[index].append(text)
            if visible:
                tokens[index] += visible[index].take(event)
    return [
        Answer(
            "".join(texts[index]),
            finish_reason(generation.finals[index].finish_reason, readers, index),
            tokens[index],
            calls[index],
        )
        for index in range(generation.num_choices)
    ]
