"""`/completions`: body → service request; events → response."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llm_serving.api.convert.answer import Answer, Head, fold, new_id, usage_fields
from llm_serving.api.convert.logprobs import completion_logprobs, echo_logprobs
from llm_serving.api.convert.reading import AnswerReader, readers_of
from llm_serving.api.convert.sampling import to_options
from llm_serving.api.convert.tools import NO_TOOLS
from llm_serving.api.schemas.completion import CompletionRequest as CompletionBody
from llm_serving.errors import InvalidRequest
from llm_serving.service.completion import CompletionRequest
from llm_serving.service.generation import Generation
from llm_serving.service.tokens import INLINE_TOKENS


def to_request(body: CompletionBody, fairness_key: str = "") -> CompletionRequest:
    """Raises: InvalidRequest for fields that do not go together."""
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequest("'max_tokens' must be at least 1; 0 is for echo: true.", "max_tokens")
    options = to_options(body, body.limit(), body.logprobs, fairness_key)
    if body.echo and body.logprobs is not None:
        if body.suffix:
            raise InvalidRequest(
                "'suffix' is not possible together with 'echo' and 'logprobs': the model reads it before the "
                "answer. Leave it out.",
                "suffix",
            )
        options = replace(options, prompt_logprobs=body.logprobs)
    if _num_each(body) > options.n:  # they are told apart by their tokens' log-probabilities
        options = replace(options, n=_num_each(body), top_logprobs=body.logprobs or 0)
    return CompletionRequest(
        request_id=new_id("cmpl"),
        prompts=body.prompt,
        options=options,
        model=body.model,
        has_echo=bool(body.echo),
        suffix=body.suffix or "",
        reads_special=body.parse_special is not False,
    )


async def to_response(head: Head, generation: Generation, *, body: CompletionBody) -> dict[str, Any]:
    """Wait for the end, and build a `text_completion`."""
    readers = readers_of(generation, NO_TOOLS)
    answers = await fold(generation, readers)

    def to_choices() -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "text": generation.echo_of(i).text + answers[i].text,
                "logprobs": None
                if body.logprobs is None
                else _logprobs(generation, i, readers[i], answers[i]),
                "finish_reason": answers[i].finish_reason,
            }
            for index, i in enumerate(_best(answers, _num_each(body), body.n or 1))
        ]

    has_many = sum(len(echo.ids) for echo in generation.echoes) > INLINE_TOKENS
    return {
        **head.fields("text_completion"),
        "choices": await asyncio.to_thread(to_choices) if has_many else to_choices(),
        "usage": usage_fields(generation),
    }


def _logprobs(generation: Generation, index: int, reader: AnswerReader, answer: Answer) -> dict[str, Any]:
    """Those of the answer, behind those of the prompt where it is echoed."""
    logprobs = completion_logprobs(answer.tokens)
    echo = generation.echo_of(index)
    if not echo.ids:
        return logprobs
    of_prompt = echo_logprobs(echo, reader.prompt_logprobs, generation.model.tokenizer)
    return {name: of_prompt[name] + column for name, column in logprobs.items()}


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
