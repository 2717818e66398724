"""Models of Hugging Face Transformers on any torch device, behind the same seams as our own engine.

The scheduler, the sampler and the streams are the native engine's, so requests mean the same on both; only
the forward pass is torch's. Importing this package costs nothing: its modules load torch when they are used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from llm_serving.errors import MissingExtra

EXTRA = "transformers"
_HOMES = {
    "CustomStreamer": "streamer",
    "load_causal_lm": "loading",
    "load_encoder": "encoder",
    "memory_need": "loading",
}


def is_installed() -> bool:
    """Whether the extra's packages are there; imports none of them."""
    return not _missing()


def require() -> None:
    """Raises: MissingExtra, with the command that installs what is missing."""
    for package in _missing():
        raise MissingExtra(package, EXTRA)


def _missing() -> list[str]:
    return [package for package in ("torch", "transformers") if find_spec(package) is None]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require()
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
