"""`POST /embeddings`: request and response."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

DEFAULT_MODEL = "mock-embed-model"
DEFAULT_USER = "007"


def _default(value: str) -> BeforeValidator:
    """null is as good as absent."""
    return BeforeValidator(lambda given: value if given is None else given)


def _texts(value: Any) -> Any:
    if isinstance(value, str | list):
        return [value] if isinstance(value, str) else value
    raise ValueError("must be a string, a list of strings, a list of token ids, or a list of lists of them.")


class EmbedRequest(BaseModel):
    """What to embed. The items of `input` are looked at one by one by `llm_serving.api.convert.embedding`.

    Without `dimensions`, vectors have the model's own size. Unknown fields are kept in `model_extra`.
    """

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    input: Annotated[list[Any], BeforeValidator(_texts)] = [""]
    model: Annotated[str, _default(DEFAULT_MODEL), Field(max_length=512)] = DEFAULT_MODEL
    encoding_format: Annotated[Literal["float", "base64"], _default("float")] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: Annotated[str, _default(DEFAULT_USER), Field(max_length=512)] = DEFAULT_USER
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    input_type: str | None = Field(None, max_length=512)
    prompt_name: str | None = Field(None, max_length=512)


class EmbeddingObject(BaseModel):
    """One vector; `embedding` is base64 of little-endian float32 where that was asked for."""

    object: str = "embedding"
    embedding: list[float] | str
    index: int


class EmbedResponse(BaseModel):
    """All vectors, in the order of the request."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    object: str = "list"
    data: list[EmbeddingObject]
    model: str = DEFAULT_MODEL
    usage: dict[str, int] | None = None
