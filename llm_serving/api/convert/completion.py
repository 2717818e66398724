"""`/completions`: body → service request; events → response."""

from __future__ import annotations

from typing import Any

from llm_serving.api.convert.answer import Head, fold, new_id, usage_fields
from llm_serving.api.convert.logprobs import completion_logprobs
from llm_serving.api.convert.sampling import to_options
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
    return CompletionRequest(
        request_id=new_id("cmpl"),
        prompts=body.prompt,
        options=to_options(body, body.max_tokens, body.logprobs, fairness_key),
        model=body.model,
        has_echo=bool(body.echo),
    )


async def to_response(head: Head, generation: Generation) -> dict[str, Any]:
    """Wait for the end, and build a `text_completion`."""
    choices = [
        {
            "index": index,
            "text": generation.echo_of(index) + choice.text,
            "logprobs": completion_logprobs(choice.tokens) if generation.has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(await fold(generation))
    ]
    return {
        **head.fields("text_completion"),
        "choices": choices,
        "usage": usage_fields(generation.usage()),
    }
