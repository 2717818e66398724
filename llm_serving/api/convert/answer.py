"""What all answers share: their head, their usage, and the fold of a stream into one text a choice."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llm_serving.api.convert.logprobs import ShownToken, VisibleTokens
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


def new_id(prefix: str) -> str:
    """`prefix-` and 32 random hex digits."""
    return f"{prefix}-{os.urandom(16).hex()}"


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


async def fold(generation: Generation) -> list[Answer]:
    """Every choice; the same events that a stream would show."""
    texts: list[list[str]] = [[] for _ in range(generation.num_choices)]
    tokens: list[list[ShownToken]] = [[] for _ in range(generation.num_choices)]
    visible = [VisibleTokens(generation.model.tokenizer) for _ in range(generation.num_choices)]
    async for batch in generation:
        for index, event in batch:
            texts[index].append(event.text)
            if generation.has_logprobs:
                tokens[index] += visible[index].take(event)
    reasons = [generation.finals[index].finish_reason for index in range(generation.num_choices)]
    return [
        Answer("".join(parts), reason.value if reason else "stop", shown)
        for parts, reason, shown in zip(texts, reasons, tokens, strict=True)
    ]
