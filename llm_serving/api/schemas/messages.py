"""`POST /messages`: the request of Anthropic's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llm_serving.api.schemas.sampling import MAX_STOPS, Stop


class Thinking(BaseModel):
    """Whether to think, and for how many tokens at most."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)


class MessagesRequest(BaseModel):
    """null means: not given. Messages are looked at one by one, see `convert/anthropic_input.py`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model: str | None = Field(None, max_length=512)
    messages: list[Any] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(None, ge=1)
    system: Any = None
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1)
    stop_sequences: Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    tools: list[Any] | None = None
    thinking: Thinking | None = None
    tool_choice: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = Field(None, max_length=16)
