"""`POST /messages`: the request of Anthropic's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llm_serving.api.schemas.sampling import MAX_STOPS, Stop
from llm_serving.chat.reasoning import Effort


class Thinking(BaseModel):
    """Whether to think, and for how many tokens at most."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(BaseModel):
    """How much to think, and the form of the answer."""

    model_config = ConfigDict(strict=True, extra="allow")

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: dict[str, Any] | None = None


class MessagesRequest(BaseModel):
    """null means: not given. Messages are looked at one by one, see `convert/anthropic_input.py`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model: str | None = Field(None, max_length=512)
    messages: list[Any] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(None, ge=1)
    system: Any = None
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1)
    stop_sequences: Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    tools: list[Any] | None = None
    thinking: Thinking | None = None
    tool_choice: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = Field(None, max_length=16)
    output_config: OutputConfig | None = None

    def effort(self) -> Effort | None:
        """How much is to be thought, if it says so."""
        thinking, config = self.thinking, self.output_config
        if thinking is not None and thinking.type == "disabled":
            return "none"
        if config is not None and config.effort is not None:
            return config.effort
        return None if thinking is None else "medium"

    def unknown_fields(self) -> dict[str, Any]:
        """What this schema does not know, by dotted path."""
        config = (self.output_config and self.output_config.model_extra) or {}
        nested = {f"output_config.{name}": value for name, value in config.items()}
        return {**(self.model_extra or {}), **nested}
