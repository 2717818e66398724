"""`POST /chat/completions`: the request, and the response as a model for programs in Python."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llm_serving.api.schemas.sampling import MAX_LOGPROBS, SamplingFields
from llm_serving.api.schemas.template import TemplateFields

MAX_MESSAGES = 10_000
Truncation = Literal["auto", "disabled"]


class ChatFields(SamplingFields, TemplateFields):
    """All but the messages, which other APIs have in their own words."""

    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    tools: list[Any] | None = None  # looked at by `llm_serving.chat.tools`
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None  # older names of `tools` and `tool_choice`
    function_call: str | dict[str, Any] | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: int | None = Field(None, ge=0)
    truncation: Truncation | None = None


class ChatCompletionRequest(ChatFields):
    """Messages are looked at one by one by `llm_serving.chat.messages`."""

    messages: list[Any] = Field(min_length=1, max_length=MAX_MESSAGES)


class ChatCompletionResponse(BaseModel):
    """A whole answer. The server itself writes the same JSON without this detour."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    id: str | int
    object: str = "chat.completion"
    created: int | float  # unix seconds
    model: str = ""
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None = None
