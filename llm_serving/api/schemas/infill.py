"""`POST /infill`: the request, as editors' plugins for llama.cpp's server send it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from llm_serving.api.schemas.llama_cpp import LlamaCppFields

MAX_FILES = 1024


class BesideFile(BaseModel):
    """A piece of another file."""

    model_config = ConfigDict(strict=True, extra="allow")

    text: str
    filename: str | None = None


class InfillRequest(LlamaCppFields):
    """What stands before a place and behind it, how what goes there begins, and pieces of other files."""

    input_prefix: str | None = None
    input_suffix: str | None = None
    prompt: str | None = None
    input_extra: Annotated[list[BesideFile], Field(max_length=MAX_FILES)] | None = None
