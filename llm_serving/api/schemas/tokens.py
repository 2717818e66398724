"""`POST /tokenize`, `/detokenize`, `/apply-template`: the requests, as vLLM and llama.cpp have them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llm_serving.api.schemas.chat import MAX_MESSAGES
from llm_serving.api.schemas.template import TemplateFields


class _TokenFields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model: str | None = Field(None, max_length=512)


class TokenizeRequest(_TokenFields, TemplateFields):
    """One of a text, under either name, and messages."""

    prompt: str | None = None
    content: str | None = None
    messages: list[Any] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    return_token_strs: bool | None = None
    tools: list[Any] | None = None


class DetokenizeRequest(_TokenFields):
    """Ids of the model's own vocabulary."""

    tokens: list[int]


class TemplateRequest(_TokenFields, TemplateFields):
    """A conversation, as for `/chat/completions`."""

    messages: list[Any] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: list[Any] | None = None
