"""What templates say of reasoning."""

from __future__ import annotations

from typing import Any

import pytest

from llm_serving.chat.reasoning import Effort, Reasoning, effort_inputs, reasoning_behind
from llm_serving.errors import InvalidRequest

SWITCH = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
NEGATED = "{% if thinking is not defined %}{% set thinking = true %}{% endif %}</think>"
BARE = "{% if tools %}{%- elif thinking -%}Think within <think></think>.{% endif %}"
OWN = "{% set thinking = messages[0].thinking %}{% if thinking %}<think>{{ thinking }}</think>{% endif %}"
LEVELS = "{{ reasoning_effort }}<think></think>"
ALWAYS = "<think>\n</think>"


@pytest.mark.parametrize(
    ("template", "effort", "inputs"),
    [
        (SWITCH, "none", {"enable_thinking": False}),
        (SWITCH, "low", {"enable_thinking": True}),
        (NEGATED, "none", {"thinking": False}),
        (BARE, "none", {"thinking": False}),
        (BARE, "high", {"thinking": True}),
        (OWN, "high", {}),
        (LEVELS, "high", {"reasoning_effort": "high"}),
        (ALWAYS, "medium", {}),
        ("no thoughts", "none", {}),
    ],
)
def test_efforts_become_what_the_template_asks_for(
    template: str, effort: Effort, inputs: dict[str, Any]
) -> None:
    assert effort_inputs(effort, template) == inputs


@pytest.mark.parametrize(
    ("template", "effort"), [(ALWAYS, "none"), (OWN, "none"), (LEVELS, "none"), ("plain", "high")]
)
def test_what_cannot_be_done_is_refused(template: str, effort: Effort) -> None:
    with pytest.raises(InvalidRequest) as caught:
        effort_inputs(effort, template)
    assert caught.value.param == "reasoning_effort"


@pytest.mark.parametrize(
    ("end", "reasoning"),
    [
        ("<|im_start|>assistant\n", Reasoning.MAY_OPEN),
        ("assistant\n<think>\n", Reasoning.IS_OPEN),
        ("assistant\n<think>\n\n</think>\n\n", Reasoning.NONE),
        ("", Reasoning.MAY_OPEN),
    ],
)
def test_the_prompts_end_tells_how_an_answer_begins(end: str, reasoning: Reasoning) -> None:
    assert reasoning_behind(SWITCH, end) is reasoning
    assert reasoning_behind("no thoughts", end) is Reasoning.NONE
