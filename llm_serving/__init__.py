"""A model behind the OpenAI API. Importing this costs nothing: names load what they need on use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ChatCompletionRequest": "llm_serving.api.schemas.chat",
    "ChatCompletionResponse": "llm_serving.api.schemas.chat",
    "CustomStreamer": "llm_serving.backends.transformers_backend",
    "EmbedRequest": "llm_serving.api.schemas.embedding",
    "EmbedResponse": "llm_serving.api.schemas.embedding",
    "EmbeddingObject": "llm_serving.api.schemas.embedding",
    "Settings": "llm_serving.config",
    "create_app": "llm_serving.api.app",
    "embed_texts": "llm_serving.api.inprocess",
    "generate_response": "llm_serving.api.inprocess",
    "lifespan": "llm_serving.api.lifespan",
}

# Without CustomStreamer, which a default install does not have.
__all__ = [
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    "EmbedRequest",
    "EmbedResponse",
    "EmbeddingObject",
    "Settings",
    "create_app",
    "embed_texts",
    "generate_response",
    "lifespan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
