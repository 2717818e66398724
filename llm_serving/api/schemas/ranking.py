"""`POST /rerank` and `POST /score`: the requests."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[Any], BeforeValidator(_texts), Field(min_length=1)]


class _RankingFields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model: str | None = Field(None, max_length=512)
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    user: str | None = Field(None, max_length=512)


class RerankRequest(_RankingFields):
    """The shape that Jina and Cohere share, or with `texts` that of Text Embeddings Inference.

    Documents are strings, or objects with a `text`.
    """

    query: str
    documents: list[Any] | None = None
    texts: list[Any] | None = None
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = None
    return_text: bool | None = None
    raw_scores: bool | None = None
    truncate: bool | None = None


class ScoreRequest(_RankingFields):
    """vLLM's shape, under any of its names. One text on the first side goes with each of the second."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
