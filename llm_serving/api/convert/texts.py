"""Lists of texts in requests: bounded, and every wrong item is named by its place."""

from __future__ import annotations

from typing import Any

from llm_serving.config import flag_name
from llm_serving.errors import InvalidRequest


def check_count(items: list[Any], name: str, limit: int) -> None:
    """Raises: InvalidRequest with both numbers."""
    if not items:
        raise InvalidRequest(f"'{name}' is empty: there is nothing to read.", name)
    if len(items) > limit:
        raise InvalidRequest(
            f"'{name}' has {len(items)} texts; this server takes {limit} in one request "
            f"({flag_name('max_embedding_inputs')}).",
            name,
        )


def to_texts(items: list[Any], name: str, *, objects: bool = False) -> list[str]:
    """Strings as they are; with `objects`, also `{"text": "…"}`. Raises: InvalidRequest."""
    texts = []
    for i, item in enumerate(items):
        text = item.get("text") if objects and isinstance(item, dict) else item
        if not isinstance(text, str):
            or_object = " or an object with a string 'text'" if objects else ""
            raise InvalidRequest(f"'{name}.{i}' must be a string{or_object}.", f"{name}.{i}")
        texts.append(text)
    return texts


def to_token_ids(items: list[Any], name: str) -> list[int]:
    """Integers, no booleans. Raises: InvalidRequest."""
    if all(type(item) is int for item in items):
        return items
    at = next(i for i, item in enumerate(items) if type(item) is not int)
    raise InvalidRequest(f"'{name}.{at}' must be a token id, as the first item is one.", f"{name}.{at}")
