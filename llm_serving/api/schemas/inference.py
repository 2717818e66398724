"""`POST /embed` and `POST /similarity`: the requests of Text Embeddings Inference."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class EmbedInputs(BaseModel):
    """Vectors have length 1. Items are looked at one by one, see `convert/inference.py`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    inputs: Any
    model: str | None = Field(None, max_length=512)
    dimensions: int | None = Field(None, ge=1)
    truncate: bool | None = None
    prompt_name: str | None = Field(None, max_length=512)


class Sentences(BaseModel):
    """A sentence, and those that are compared with it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    source_sentence: str
    sentences: list[Any]


class SimilarityParameters(BaseModel):
    """As of `EmbedInputs`."""

    model_config = ConfigDict(strict=True, extra="allow")

    truncate: bool | None = None
    prompt_name: str | None = Field(None, max_length=512)


class SimilarityRequest(BaseModel):
    """How near sentences are to one."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    inputs: Sentences
    model: str | None = Field(None, max_length=512)
    parameters: SimilarityParameters | None = None

    def unknown_fields(self) -> dict[str, Any]:
        """What this schema does not know, by dotted path."""
        nested = (self.parameters and self.parameters.model_extra) or {}
        return {
            **(self.model_extra or {}),
            **{f"parameters.{name}": value for name, value in nested.items()},
        }
