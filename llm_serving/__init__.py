"""A model behind the OpenAI API. Importing this costs nothing: names load what they need on use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Settings": "llm_serving.config",
    "create_app": "llm_serving.api.app",
}

__all__ = ["Settings", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
