"""Models that think before they answer: Qwen, DeepSeek-R1, SmolLM3, Magistral, gpt-oss and many more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, NamedTuple

from llm_serving.chat.frames import ADDRESSED, ENDS, RECIPIENTS, SECTIONS, SOLAR, Frames
from llm_serving.errors import InvalidRequest

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# What templates call the switch.
_SWITCHES = ("enable_thinking", "thinking", "thinking_mode")
# Levels under names of their own, and what each knows of the API's.
_LEVEL_NAMES: Mapping[str, Mapping[str, str]] = {
    "thinking_effort": {"minimal": "low", "medium": "high", "xhigh": "max"},  # Kimi K3
    "reasoning_strength": {"minimal": "low", "xhigh": "high", "max": "high"},  # Muse Glimmer
}
_MODES = {"thinking_mode": ("disabled", "enabled")}  # of switches that are no booleans
_LEVELS = ("low", "medium", "high")  # that gpt-oss has learnt


class ThoughtFormat(NamedTuple):
    """How the thoughts of a family of models are told from their answer.

    open, close: what stands around thoughts. A template that holds `close` and `sign` is of this family;
    `sign` alone tells where the template puts `close` together of parts.
    """

    open: str
    close: str
    sign: str = ""
    around_answer: tuple[str, str] | None = None  # what may stand around the answer, and is none of it
    is_put_together: bool = False
    frames: Frames | None = None  # around all parts of an answer; a model with nothing else does not think
    has_channels: bool = False  # see `chat/harmony.py`; all before `close` is read there


THINK = ThoughtFormat("<think>", "</think>")
# The first that fits counts.
_FORMATS = (
    ThoughtFormat("", "<|channel|>final", sign="<|channel|>analysis", has_channels=True),  # gpt-oss
    THINK._replace(sign="</response>", around_answer=("<response>", "</response>")),  # Granite 3
    THINK._replace(sign="<|extra_0|>", around_answer=("<answer>", "</answer>")),  # Hunyuan A13B
    THINK._replace(open="", close="", sign=">>>${recipient}", frames=RECIPIENTS),  # Functionary 3.2
    THINK._replace(open="", close="", sign="<|message_sep|>", frames=ENDS),
    ThoughtFormat("to=self<|message|>", "<|eom|>", sign="<|start|>assistant to=self", frames=ADDRESSED),
    ThoughtFormat("<|think|>", "<|end|>", sign="<|begin|>assistant<|think|>", frames=SOLAR),
    ThoughtFormat(
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        sign="open_tag('think'",
        is_put_together=True,
        frames=SECTIONS,
    ),  # Kimi K3
    THINK,
    ThoughtFormat("<mm:think>", "</mm:think>"),  # MiniMax M3
    ThoughtFormat(
        "<think:opensource>", "</think:opensource>", sign="</think{}>", is_put_together=True
    ),  # Hunyuan 3
    ThoughtFormat("[THINK]", "[/THINK]"),  # Magistral
    ThoughtFormat("<seed:think>", "</seed:think>"),  # Seed-OSS
    ThoughtFormat("<thought>", "</thought>"),  # EXAONE Deep
    ThoughtFormat("<|channel>thought\n", "<channel|>"),  # Gemma 4
    *(
        ThoughtFormat("<|START_THINKING|>", "<|END_THINKING|>", sign=begin, around_answer=(begin, end))
        for begin, end in (("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<|START_TEXT|>", "<|END_TEXT|>"))
    ),  # Command R7B, Command A, and their followers
    ThoughtFormat("<|START_THINKING|>", "<|END_THINKING|>"),
    ThoughtFormat("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ThoughtFormat(
        "Here are my reasoning steps:\n",
        "[BEGIN FINAL RESPONSE]",
        around_answer=("", "[END FINAL RESPONSE]"),
    ),  # Apriel
)


class Reasoning(Enum):
    """Whether an answer has thoughts in front."""

    NONE = "none"
    MAY_OPEN = "may open"  # the model begins them, or does not
    IS_OPEN = "is open"  # the prompt has begun them


def format_of(template_source: str) -> ThoughtFormat | None:
    """How a model with this template thinks; None if it does not."""
    return next((each for each in _FORMATS if _is_of(each, template_source)), None)


def _is_of(thoughts: ThoughtFormat, source: str) -> bool:
    return thoughts.sign in source and (thoughts.is_put_together or thoughts.close in source)


def reasons(template_source: str) -> bool:
    """Whether a model with this template may think."""
    thoughts = format_of(template_source)
    return thoughts is not None and bool(thoughts.close)


def reasoning_behind(thoughts: ThoughtFormat | None, prompt_end: str) -> Reasoning:
    """How an answer to a prompt that ends so begins."""
    end = prompt_end.rstrip()
    if thoughts is None or not thoughts.close:
        return Reasoning.NONE
    if thoughts.has_channels:
        return Reasoning.IS_OPEN
    if end.endswith(thoughts.close):  # thoughts that are over before they begin
        return Reasoning.NONE
    return Reasoning.IS_OPEN if end.endswith(thoughts.open.rstrip()) else Reasoning.MAY_OPEN


def thoughts_around(thoughts: ThoughtFormat | None, reasoning: Reasoning) -> tuple[str, str] | None:
    """What the text of an answer begins with if it has thoughts in front, and what they end with."""
    if thoughts is None or reasoning is Reasoning.NONE:
        return None
    return ("" if reasoning is Reasoning.IS_OPEN else thoughts.open), thoughts.close


def thoughts_name(template_source: str) -> str:
    """What a template calls the assistant's earlier thoughts, in a message."""
    if "reasoning_content" in template_source:
        return "reasoning_content"
    return "reasoning" if re.search(r"[.'\"]reasoning\b", template_source) else "thinking"


def effort_inputs(effort: Effort, template_source: str) -> dict[str, Any]:
    """`reasoning_effort` → what a template is given. A switch knows on and off only.

    Raises: InvalidRequest where the model does not think, cannot be kept from it, or not so.
    """
    thoughts = format_of(template_source)
    if thoughts is None or not thoughts.close:
        if effort == "none":
            return {}
        raise _refusal("asks for reasoning, and this model does not reason")
    switch = _switch(template_source)
    if effort == "none" and switch is None:
        if thoughts.has_channels or (thoughts.frames is not None and thoughts.frames.begun):
            raise _refusal("forbids reasoning, and this model always reasons")
        return {}  # see `without_thoughts`
    if thoughts.has_channels and effort not in _LEVELS:
        raise _refusal(f"is '{effort}', and this model knows {', '.join(_LEVELS)}", "Send one of these")
    is_on = effort != "none"
    inputs: dict[str, Any] = {}
    if switch is not None:
        inputs[switch] = _MODES[switch][is_on] if switch in _MODES else is_on
    if effort != "none" and re.search(r"\breasoning_effort\b", template_source):
        inputs["reasoning_effort"] = effort
    for name, levels in _LEVEL_NAMES.items():
        if effort != "none" and _is_asked(name, template_source):
            inputs[name] = levels.get(effort, effort)
    return inputs


def nearest_effort(effort: Effort, template_source: str) -> Effort | None:
    """What comes nearest to it of what a model with this template knows; None where it does not think."""
    thoughts = format_of(template_source)
    if thoughts is None or not thoughts.close:
        return None
    nearest: Mapping[Effort, Effort] = {"minimal": "low", "xhigh": "high", "max": "high"}
    return nearest.get(effort, effort) if thoughts.has_channels else effort


def without_thoughts(thoughts: ThoughtFormat | None, template_source: str, prompt: str) -> str:
    """The prompt of an answer that has no thoughts.

    Where the template has no switch, it ends in an empty block of them, as hybrid models' templates write it.
    """
    if thoughts is None or thoughts.has_channels or _switch(template_source) is not None:
        return prompt
    if prompt.rstrip().endswith(thoughts.close):
        return prompt
    gap = "\n\n" if thoughts.open == THINK.open else ""
    block = f"{thoughts.open}{gap}{thoughts.close}{gap}"
    begun = range(len(block), len(thoughts.open.rstrip()) - 1, -1)  # how much of it the prompt may have
    return prompt + block[next((length for length in begun if prompt.endswith(block[:length])), 0) :]


def _switch(template_source: str) -> str | None:
    return next((name for name in _SWITCHES if _is_asked(name, template_source)), None)


def _is_asked(name: str, source: str) -> bool:
    """Whether a template looks if a request has set this, or, as Granite's, takes what is not set for no.

    Not in a message, or among values of its own.
    """
    if re.search(rf"(?<![\w.]){name}\s+(is\s+(not\s+)?(un)?defined\b|\|\s*default\b)", source):
        return True
    is_own = re.search(rf"{{%-?\s*(set|for)\s+{name}\b", source)
    return not is_own and re.search(rf"{{%-?\s*(el)?if\s+(not\s+)?{name}\s*-?%}}", source) is not None


def _refusal(what: str, remedy: str = "Leave it out") -> InvalidRequest:
    return InvalidRequest(f"'reasoning_effort' {what}. {remedy}.", "reasoning_effort")
