"""`/completions`: body → service request; events → response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llm_serving.api.convert.answer import Answer, Head, fold, new_id, usage_fields
from llm_serving.api.convert.logprobs import completion_logprobs
from llm_serving.api.convert.reading import readers_of
from llm_serving.api.convert.sampling import to_options
from llm_serving.api.convert.tools import NO_TOOLS
from llm_serving.api.schemas.completion import CompletionRequest as CompletionBody
from llm_serving.errors import InvalidRequest
from llm_serving.service.completion import CompletionRequest
from llm_serving.service.generation import Generation


def to_request(body: CompletionBody, fairness_key: str = "") -> CompletionRequest:
    """Raises: InvalidRequest for fields that do not go together."""
    if body.echo and body.logprobs is not None:
        raise InvalidRequest(
            "'echo' is not possible together with 'logprobs': those of a prompt's tokens are not computed. "
            "Leave one out.",
            "echo",
        )
    options = to_options(body, body.max_tokens, body.logprobs, fairness_key)
    if _num_each(body) > options.n:  # they are told apart by their tokens' log-probabilities
        options = replace(options, n=_num_each(body), top_logprobs=body.logprobs or 0)
    return CompletionRequest(
        request_id=new_id("cmpl"),
        prompts=body.prompt,
        options=options,
        model=body.model,
        has_echo=bool(body.echo),
        suffix=body.suffix or "",
    )


async def to_response(head: Head, generation: Generation, *, body: CompletionBody) -> dict[str, Any]:
    """Wait for the end, and build a `text_completion`."""
    answers = await fold(generation, readers_of(generation, NO_TOOLS))
    choices = [
        {
            "index": index,
            "text": generation.echo_of(i) + answers[i].text,
            "logprobs": completion_logprobs(answers[i].tokens) if body.logprobs is not None else None,
            "finish_reason": answers[i].finish_reason,
        }
        for index, i in enumerate(_best(answers, _num_each(body), body.n or 1))
    ]
    return {
        **head.fields("text_completion"),
        "choices": choices,
        "usage": usage_fields(generation),
    }


def _num_each(body: CompletionBody) -> int:
    """How many answers are made for each prompt."""
    return body.best_of or body.n or 1


def _best(answers: Sequence[Answer], num_each: int, n: int) -> list[int]:
    """Which `n` of each prompt's answers are told: the likeliest first, all of them as they came."""
    if num_each == n:
        return list(range(len(answers)))
    groups = [range(first, first + num_each) for first in range(0, len(answers), num_each)]
    return [i for group in groups for i in sorted(group, key=lambda i: -_mean_logprob(answers[i]))[:n]]


def _mean_logprob(answer: Answer) -> float:
    """Of the tokens that are told; an answer without any is the worst."""
    logprobs = [token.logprobs.chosen for token in answer.tokens]
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf
