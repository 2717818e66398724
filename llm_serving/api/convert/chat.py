"""`/chat/completions`: body → service request; events → response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llm_serving.api.convert.answer import Answer, Head, fold, new_id, usage_fields
from llm_serving.api.convert.logprobs import chat_logprobs
from llm_serving.api.convert.reading import readers_of
from llm_serving.api.convert.sampling import to_options
from llm_serving.api.convert.template import to_conversation
from llm_serving.api.convert.tool_calls import calls_fields
from llm_serving.api.convert.tools import ToolUse
from llm_serving.api.schemas.chat import ChatFields
from llm_serving.chat.messages import Message
from llm_serving.errors import InvalidRequest
from llm_serving.service.chat import ChatRequest
from llm_serving.service.generation import Generation


def to_request(
    body: ChatFields,
    messages: Sequence[Message],
    use: ToolUse,
    fairness_key: str = "",
    *,
    request_id: str = "",
) -> ChatRequest:
    """`max_completion_tokens` wins over the older `max_tokens`.

    Raises: InvalidRequest that names `top_logprobs` alone, or what is not for a template.
    """
    limit = body.limit() if body.max_completion_tokens is None else body.max_completion_tokens
    options = to_options(body, limit, _top_logprobs(body), fairness_key, use.form())
    return ChatRequest(
        request_id=request_id or new_id("chatcmpl"),
        conversation=to_conversation(body, messages, use.tools),
        options=replace(options, thinking_budget=body.thinking_token_budget),
        model=body.model,
        leaves_out=body.truncation == "auto",
    )


def _message(answer: Answer, *, is_older: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.thoughts:  # clients look for them under either name
        message |= {"reasoning_content": answer.thoughts, "reasoning": answer.thoughts}
    if answer.calls:
        message |= {"content": answer.text or None, **calls_fields(answer.calls, is_older=is_older)}
    return message


def _top_logprobs(body: ChatFields) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest("'top_logprobs' is only allowed together with logprobs: true.", "top_logprobs")
    return None


async def to_response(
    head: Head, generation: Generation, *, use: ToolUse, include_reasoning: bool
) -> dict[str, Any]:
    """Wait for the end, and build a `chat.completion`."""
    readers = readers_of(generation, use, include_reasoning=include_reasoning)
    choices = [
        {
            "index": index,
            "message": _message(choice, is_older=use.is_older),
            "logprobs": chat_logprobs(choice.tokens) if generation.has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(await fold(generation, readers))
    ]
    return {
        **head.fields("chat.completion"),
        "choices": choices,
        "usage": usage_fields(generation, readers),
    }
