"""`POST /chat/completions`: the request."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from llm_serving.api.schemas.sampling import SamplingFields

MAX_MESSAGES = 10_000


class ChatCompletionRequest(SamplingFields):
    """Messages are looked at one by one by `llm_serving.chat.messages`."""

    messages: list[Any] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
