"""`POST /classify` and `POST /predict`: the requests."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _texts(value: Any) -> Any:
    if isinstance(value, str | dict):
        return [value]
    if isinstance(value, list):
        return value
    raise ValueError("must be a text, or a list of texts, of pairs {text, text_pair} or of token arrays.")


def _inputs(value: Any) -> Any:
    if isinstance(value, str | list):
        return value
    raise ValueError("must be a text, a pair of texts, or a list of lists of one or two texts.")


class ClassifyRequest(BaseModel):
    """vLLM's shape. An item may also be a pair, `{"text": …, "text_pair": …}` as in `transformers`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    input: Annotated[list[Any], BeforeValidator(_texts)]
    model: str | None = Field(None, max_length=512)
    use_activation: bool | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    user: str | None = Field(None, max_length=512)


class PredictRequest(BaseModel):
    """As Text Embeddings Inference has it: a text, a pair `[a, b]`, or a list of lists of such texts."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    inputs: Annotated[Any, BeforeValidator(_inputs)]
    model: str | None = Field(None, max_length=512)
    raw_scores: bool | None = None
    truncate: bool | None = None
