"""`POST /completions`: the request."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator

from llm_serving.api.schemas.sampling import MAX_CHOICES, MAX_LOGPROBS, SamplingFields

_SHAPE = "must be a string, a list of strings, a list of token ids, or a list of lists of token ids."


def _prompts(value: Any) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError(_SHAPE)
    if not value:
        raise ValueError("is empty: there is nothing to continue.")
    if _is_token_ids(value):
        return [value]
    if all(isinstance(item, str) for item in value):
        return value
    if all(isinstance(item, list) and _is_token_ids(item) for item in value):
        return value
    raise ValueError(_SHAPE)


def _is_token_ids(items: list[Any]) -> bool:
    return all(type(item) is int for item in items)  # a boolean is an `int` to isinstance


class CompletionRequest(SamplingFields):
    """`prompt` becomes a list of texts or token arrays, whatever shape it came in."""

    prompt: Annotated[list[str | list[int]], PlainValidator(_prompts)]
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool | None = None
    suffix: str | None = None
    parse_special: bool | None = None
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
