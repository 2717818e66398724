"""`POST /infill`: the request, as editors' plugins for llama.cpp's server send it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from llm_serving.api.schemas.sampling import DecodingFields

MAX_FILES = 1024


class BesideFile(BaseModel):
    """A piece of another file."""

    model_config = ConfigDict(strict=True, extra="allow")

    text: str
    filename: str | None = None


class InfillRequest(DecodingFields):
    """What stands before a place and behind it, how what goes there begins, and pieces of other files."""

    input_prefix: str | None = None
    input_suffix: str | None = None
    prompt: str | None = None
    input_extra: Annotated[list[BesideFile], Field(max_length=MAX_FILES)] | None = None
    n_predict: int | None = Field(None, ge=-1, le=2**31 - 1)
    n_indent: int | None = Field(None, ge=0, le=1000)
    t_max_predict_ms: int | None = Field(None, ge=-1, le=2**31 - 1)
    response_fields: list[str] | None = Field(None, max_length=64)
    # How to compute, which this server decides for itself.
    t_max_prompt_ms: int | None = None
    cache_prompt: bool | None = None
    samplers: list[str] | str | None = None
    id_slot: int | None = None

    def unknown_fields(self) -> dict[str, Any]:
        """What this schema does not know."""
        return dict(self.model_extra or {})
