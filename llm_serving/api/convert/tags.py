"""Tags in text that comes in pieces."""

from __future__ import annotations


def num_clear(text: str, tag: str) -> int:
    """How many characters of `text`, which does not hold `tag`, are no part of one that may have begun."""
    most = min(len(tag) - 1, len(text))
    return len(text) - next((n for n in range(most, 0, -1) if text.endswith(tag[:n])), 0)
