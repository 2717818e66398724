"""What requests of llama.cpp's own routes have in common, and `POST /completion`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator

from llm_serving.api.schemas.sampling import DecodingFields


def _prompt(value: Any) -> str | list[int]:
    if isinstance(value, str) or (isinstance(value, list) and all(type(item) is int for item in value)):
        return value
    raise ValueError("must be a string or a list of token ids.")


class LlamaCppFields(DecodingFields):
    """How much is wanted, and what of it to tell."""

    n_predict: int | None = Field(None, ge=-1, le=2**31 - 1)
    n_indent: int | None = Field(None, ge=0, le=1000)
    t_max_predict_ms: int | None = Field(None, ge=-1, le=2**31 - 1)
    response_fields: list[str] | None = Field(None, max_length=64)
    json_schema: dict[str, Any] | None = None
    # How to compute, which this server decides for itself.
    t_max_prompt_ms: int | None = None
    cache_prompt: bool | None = None
    samplers: list[str] | str | None = None
    id_slot: int | None = None

    def unknown_fields(self) -> dict[str, Any]:
        """What this schema does not know."""
        return dict(self.model_extra or {})


class LlamaCppCompletionRequest(LlamaCppFields):
    """A text or a token array to continue."""

    prompt: Annotated[str | list[int], PlainValidator(_prompt)]
