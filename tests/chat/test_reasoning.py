"""What templates say of reasoning."""

from __future__ import annotations

from typing import Any

import pytest

from llm_serving.chat.reasoning import (
    Effort,
    Reasoning,
    effort_inputs,
    format_of,
    reasoning_behind,
    thoughts_name,
    without_thoughts,
)
from llm_serving.errors import InvalidRequest

SWITCH = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
NEGATED = "{% if thinking is not defined %}{% set thinking = true %}{% endif %}</think>"
BARE = "{% if tools %}{%- elif thinking -%}Think within <think></think>.{% endif %}"
OWN = "{% set thinking = messages[0].thinking %}{% if thinking %}<think>{{ thinking }}</think>{% endif %}"
DEFAULTED = "{%- set enable_thinking = enable_thinking | default(false) -%}<think></think>"
OF_MESSAGES = "{% if ns.enable_thinking is defined and m.thinking is defined %}<think></think>{% endif %}"
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
        (DEFAULTED, "none", {"enable_thinking": False}),
        (DEFAULTED, "high", {"enable_thinking": True}),
        (OF_MESSAGES, "none", {}),
        (LEVELS, "high", {"reasoning_effort": "high"}),
        (ALWAYS, "medium", {}),
        (ALWAYS, "none", {}),
        (OWN, "none", {}),
        (LEVELS, "none", {}),
        ("no thoughts", "none", {}),
    ],
)
def test_efforts_become_what_the_template_asks_for(
    template: str, effort: Effort, inputs: dict[str, Any]
) -> None:
    assert effort_inputs(effort, template) == inputs


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        effort_inputs("high", "plain")
    assert caught.value.param == "reasoning_effort"


@pytest.mark.parametrize(
    ("template", "prompt", "added"),
    [
        (ALWAYS, "user: Hi\nassistant: ", "<think>\n\n</think>\n\n"),
        (ALWAYS, "assistant: <think>", "\n\n</think>\n\n"),
        (ALWAYS, "assistant: <think>\n", "\n</think>\n\n"),
        (ALWAYS, "assistant: <think>\n\n", "</think>\n\n"),
        (ALWAYS, "assistant: <think>\n\n</think>\n", ""),
        ("[THINK][/THINK]", "[/INST]", "[THINK][/THINK]"),
        ("[THINK][/THINK]", "[/INST][THINK]", "[/THINK]"),
        ("<|channel>thought\n<channel|>", "<|turn>model\n", "<|channel>thought\n<channel|>"),
        ("<|channel>thought\n<channel|>", "<|turn>model\n<|channel>thought\n", "<channel|>"),
        (SWITCH, "assistant: ", ""),
        ("no thoughts", "assistant: ", ""),
    ],
)
def test_thoughts_that_cannot_be_switched_off_are_empty(template: str, prompt: str, added: str) -> None:
    thoughts = format_of(template)
    behind = without_thoughts(thoughts, template, prompt)
    assert behind == prompt + added
    if template is not SWITCH:
        assert reasoning_behind(thoughts, behind) is Reasoning.NONE


HARMONY = "Reasoning: {{ reasoning_effort }}<|channel|>analysis<|message|><|channel|>final<|message|>"


def test_gpt_oss_knows_three_efforts() -> None:
    for effort in ("low", "medium", "high"):
        assert effort_inputs(effort, HARMONY) == {"reasoning_effort": effort}  # type: ignore[arg-type]
    for effort in ("none", "minimal", "xhigh", "max"):
        with pytest.raises(InvalidRequest, match=r"always reasons\. Leave it out|knows low, medium, high"):
            effort_inputs(effort, HARMONY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "opened", "closed"),
    [
        ("follow the template below:[THINK]Your thoughts[/THINK]Here", "[THINK]", "[/THINK]"),
        ("{%- set begin = '<seed:think>' %}{% set end = '</seed:think>' %}", "<seed:think>", "</seed:think>"),
        ("{{ content.split('</thought>')[-1] }}[|assistant|]<thought>\n", "<thought>", "</thought>"),
        (
            "{% if not enable_thinking %}<|channel>thought\n<channel|>{% endif %}",
            "<|channel>thought\n",
            "<channel|>",
        ),
        ("<|START_THINKING|>{{ plan }}<|END_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|extra_0|><think>\n\n</think>\n", "<think>", "</think>"),
        ("<channel|>and</think>", "<think>", "</think>"),
        ("{% set inner = '<|inner_prefix|>' %}<|inner_suffix|>", "<|inner_prefix|>", "<|inner_suffix|>"),
        ("then [BEGIN FINAL RESPONSE]", "Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
    ],
)
def test_templates_tell_the_tags(template: str, opened: str, closed: str) -> None:
    found = format_of(template)
    assert found is not None
    assert (found.open, found.close) == (opened, closed)
    assert reasoning_behind(found, f"assistant{opened}") is Reasoning.IS_OPEN
    assert reasoning_behind(found, f"assistant{opened}{closed}\n") is Reasoning.NONE
    assert reasoning_behind(found, "assistant\n") is Reasoning.MAY_OPEN


def test_no_tags_no_thoughts() -> None:
    for template in ("", "<thought>", "<|channel|>final", "</response>", "<|channel|>analysis"):
        assert format_of(template) is None
    assert reasoning_behind(format_of(HARMONY), "<|start|>assistant") is Reasoning.IS_OPEN


def test_templates_name_earlier_thoughts() -> None:
    assert thoughts_name("{{ m.reasoning_content }}{{ thinking }}") == "reasoning_content"
    assert thoughts_name("{{ m.thinking }}") == "thinking"
    for template in ("{{ m.reasoning }}", "{{ m['reasoning'] }}"):
        assert thoughts_name(template) == "reasoning"


def test_templates_tell_what_stands_around_answers() -> None:
    thinking = "<|START_THINKING|><|END_THINKING|>"
    for begin, end in [("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<|START_TEXT|>", "<|END_TEXT|>")]:
        found = format_of(thinking + begin + end)
        assert found is not None
        assert found.around_answer == (begin, end)
    plain = format_of(thinking)
    assert plain is not None
    assert plain.around_answer is None


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
    assert reasoning_behind(format_of(SWITCH), end) is reasoning
    assert reasoning_behind(format_of("no thoughts"), end) is Reasoning.NONE
