"""What several groups read out of answers, and judge in the same words."""

from __future__ import annotations

import math
from typing import Any

from llm_serving.cli.conformance.check import Skipped, expect, short

FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")


def content_of(answer: dict[str, Any], index: int = 0) -> str:
    """The text of a chat completion; "" if there is none."""
    return answer["choices"][index]["message"].get("content") or ""


def some(text: str) -> str:
    """The text itself. Raises: Skipped if it is empty."""
    if not text:
        raise Skipped("the model said nothing here that could be looked at")
    return text


def check_usage(usage: Any) -> None:
    """Three counts that add up. Raises: Failed."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    expect(isinstance(usage, dict), f"usage is {short(usage)}")
    counts = [usage.get(name) for name in names]
    expect(all(type(count) is int and count >= 0 for count in counts), f"usage is {short(usage)}")
    expect(counts[0] > 0, f"a prompt of no tokens: {short(usage)}")
    expect(counts[0] + counts[1] == counts[2], f"usage does not add up: {short(usage)}")


def is_number(value: object) -> bool:
    """A finite one, and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def cosine(first: list[float], second: list[float]) -> float:
    lengths = math.hypot(*first) * math.hypot(*second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 0.0
