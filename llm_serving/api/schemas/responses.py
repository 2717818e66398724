"""`POST /responses`: the request of OpenAI's newer API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llm_serving.api.schemas.chat import Truncation
from llm_serving.api.schemas.sampling import MAX_LOGPROBS, DecodingFields
from llm_serving.chat.reasoning import Effort

MAX_ITEMS = 10_000
MAX_METADATA = 16
MAX_CACHE_KEY = 512

Metadata = dict[
    Annotated[str, Field(max_length=64)],
    Annotated[str, Field(max_length=512)],
]


class ResponseStreamOptions(BaseModel):
    """Nothing in it changes a stream: lengths are not hidden here."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_obfuscation: bool | None = None


class TextOptions(BaseModel):
    """What the text must look like; `format` is looked at where `response_format` is."""

    model_config = ConfigDict(strict=True, extra="allow")

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningOptions(BaseModel):
    """Thoughts are told as they are: of summaries there is only what `auto` leaves open, none."""

    model_config = ConfigDict(strict=True, extra="allow")

    effort: Effort | None = None
    summary: Literal["auto"] | None = None


class ResponseRequest(DecodingFields):
    """Input items are looked at one by one, see `convert/response_input.py`."""

    input: Any
    instructions: str | None = None
    previous_response_id: str | None = Field(None, max_length=512)
    store: bool | None = None
    background: bool | None = None
    metadata: Metadata | None = Field(None, max_length=MAX_METADATA)
    max_output_tokens: int | None = Field(None, ge=1)
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = Field(None, max_length=16)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    stream_options: ResponseStreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    truncation: Truncation | None = None
    prompt_cache_key: str | None = Field(None, max_length=MAX_CACHE_KEY)  # prompts are cached without one
    safety_identifier: str | None = Field(None, max_length=MAX_CACHE_KEY)

    def effort(self) -> Effort | None:
        """How much is to be thought, if it says so."""
        return self.reasoning.effort if self.reasoning is not None else None

    def unknown_fields(self) -> dict[str, Any]:
        """What this schema does not know, by dotted path."""
        found = dict(self.model_extra or {})
        for name in ("reasoning", "stream_options", "text"):
            part = getattr(self, name)
            extra = (part.model_extra or {}) if part is not None else {}
            found.update({f"{name}.{key}": value for key, value in extra.items()})
        return found
