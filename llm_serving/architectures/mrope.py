"""Which of a token's three rotary positions turns each frequency (M-RoPE, Wang et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan


def with_axes(
    plan: ModelPlan, text: Checkpoint, sections: tuple[int, int, int], *, interleaved: bool = False
) -> ModelPlan:
    """The plan, turned by time, height and width; `sections` are frequencies of each where `text` says none.

    They lie one behind the other, or `interleaved` as long as there are some of each. GGUF files have a
    fourth one, of nothing.

    Raises: CheckpointError for sections that are not all of the frequencies.
    """
    config = text.metadata
    given: Any = config.get("rope_parameters") or config.get("rope_scaling") or {}
    found: Any = given.get("mrope_section", list(sections))
    if text.format == "gguf" and isinstance(told := text.hyper("rope.dimension_sections"), np.ndarray):
        found = [int(n) for n in told[:3]]
    frequencies = plan.rope.rotated // 2
    if not isinstance(found, list) or len(found) != 3 or any(type(n) is not int or n < 0 for n in found):
        raise CheckpointError(f"The rotary sections of '{text.path}' are no list of 3 numbers.")
    if sum(found) != frequencies:
        raise CheckpointError(
            f"The rotary sections (mrope_section) of '{text.path}' are {found}; "
            f"{frequencies} frequencies are to be shared out."
        )
    axes = _interleaved(found) if interleaved else _in_turn(found)
    return replace(plan, rope=replace(plan.rope, axes=axes))


def _in_turn(sections: list[int]) -> tuple[int, ...]:
    return tuple(axis for axis, count in enumerate(sections) for _ in range(count))


def _interleaved(sections: list[int]) -> tuple[int, ...]:
    """Height and width have every third frequency as long as theirs last, and time all others."""
    return tuple(i % 3 if i // 3 < sections[i % 3] else 0 for i in range(sum(sections)))
