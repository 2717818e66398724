"""Models that think before they answer, between tags: Qwen, DeepSeek-R1, SmolLM3 and many more."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Literal

from llm_serving.errors import InvalidRequest

OPEN, CLOSE = "<think>", "</think>"
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# What templates call the switch.
_SWITCHES = ("enable_thinking", "thinking")


class Reasoning(Enum):
    """Whether an answer has thoughts in front."""

    NONE = "none"
    MAY_OPEN = "may open"  # the model begins them, or does not
    IS_OPEN = "is open"  # the prompt has begun them


def reasons(template_source: str) -> bool:
    """Whether a model with this template may think."""
    return CLOSE in template_source


def reasoning_behind(template_source: str, prompt_end: str) -> Reasoning:
    """How an answer to a prompt that ends so begins."""
    end = prompt_end.rstrip()
    if not reasons(template_source) or end.endswith(CLOSE):  # thoughts that are over before they begin
        return Reasoning.NONE
    return Reasoning.IS_OPEN if end.endswith(OPEN) else Reasoning.MAY_OPEN


def thoughts_around(reasoning: Reasoning) -> tuple[str, str] | None:
    """What the text of an answer begins with if it has thoughts in front, and what they end with."""
    if reasoning is Reasoning.NONE:
        return None
    return ("" if reasoning is Reasoning.IS_OPEN else OPEN), CLOSE


def effort_inputs(effort: Effort, template_source: str) -> dict[str, Any]:
    """`reasoning_effort` → what a template is given. A switch knows on and off only.

    Raises: InvalidRequest where the model does not think, or cannot be kept from it.
    """
    if not reasons(template_source):
        if effort == "none":
            return {}
        raise _refusal("asks for reasoning, and this model does not reason")
    switch = next((name for name in _SWITCHES if _is_asked(name, template_source)), None)
    if effort == "none" and switch is None:
        raise _refusal("forbids reasoning, and this model always reasons")
    inputs: dict[str, Any] = {} if switch is None else {switch: effort != "none"}
    if effort != "none" and re.search(r"\breasoning_effort\b", template_source):
        inputs["reasoning_effort"] = effort
    return inputs


def _is_asked(name: str, source: str) -> bool:
    """Whether a template looks if a request has set this, or, as Granite's, takes what is not set for no."""
    if re.search(rf"\b{name}\s+is\s+(not\s+)?defined\b", source):
        return True
    is_own = re.search(rf"{{%-?\s*(set|for)\s+{name}\b", source)
    return not is_own and re.search(rf"{{%-?\s*(el)?if\s+(not\s+)?{name}\s*-?%}}", source) is not None


def _refusal(what: str) -> InvalidRequest:
    return InvalidRequest(f"'reasoning_effort' {what}. Leave it out.", "reasoning_effort")
