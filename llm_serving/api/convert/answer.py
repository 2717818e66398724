"""What all answers share: their head, their usage, and the fold of a stream into one text a choice."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llm_serving.api.convert.logprobs import ShownToken
from llm_serving.api.convert.reading import AnswerReader, Piece
from llm_serving.api.convert.tool_calls import ToolCall
from llm_serving.chat.reasoning import Reasoning
from llm_serving.service.generation import Generation


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
    return Head(request_id, generation.name, generation.fingerprint)


def usage_fields(generation: Generation, readers: Sequence[AnswerReader] = ()) -> dict[str, Any]:
    usage = generation.usage()
    fields: dict[str, Any] = {
        "prompt_tokens": usage.num_prompt,
        "completion_tokens": usage.num_completion,
        "total_tokens": usage.num_prompt + usage.num_completion,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached},
    }
    if generation.reasoning is not Reasoning.NONE:
        num_thought = sum(reader.num_reasoning_tokens for reader in readers)
        fields["completion_tokens_details"] = {"reasoning_tokens": num_thought}
    return fields


class Answer(NamedTuple):
    """One choice, whole."""

    thoughts: str
    text: str
    finish_reason: str
    tokens: list[ShownToken]  # if log-probabilities were asked for
    calls: list[ToolCall]


async def fold(generation: Generation, readers: Sequence[AnswerReader]) -> list[Answer]:
    """Every choice; the same events that a stream would show."""
    pieces: list[list[Piece]] = [[] for _ in readers]
    async for batch in generation:
        for index, event in batch:
            pieces[index].append(readers[index].feed(event))
    return [
        Answer(
            "".join(piece.thoughts for piece in parts),
            "".join(piece.text for piece in parts),
            reader.finish_reason,
            [token for piece in parts for token in piece.tokens],
            [call for piece in parts for call in piece.calls],
        )
        for reader, parts in zip(readers, pieces, strict=True)
    ]
