"""Finds the C++ extension and refuses one that was built for other sources."""

from __future__ import annotations

from typing import Any

from llm_serving.errors import ServingError

ABI = 37  # bump with `m.attr("ABI")` in bindings.cpp whenever the binding changes


class ExtensionMissing(ServingError):
    """The native engine was not built, or was built from other sources."""


def load_core() -> Any:
    """The module `_llm_serving_native`. It lives beside the package, so a checkout finds an installed copy.

    Raises: ExtensionMissing with the command that builds it.
    """
    try:
        import _llm_serving_native as core
    except ImportError as error:
        raise ExtensionMissing(
            f"The native engine is not installed ({error}). Build it with: pip install -r requirements.txt"
        ) from None
    if core.ABI != ABI:
        raise ExtensionMissing(
            f"The installed native engine has interface {core.ABI}, these sources need {ABI}. "
            "Rebuild it with: pip install -r requirements.txt"
        )
    return core
