"""Kimi K2's calls: in a section, and each behind an id that holds the function's name and a number.

<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>
<|tool_calls_section_end|>
"""

from __future__ import annotations

import re

from llm_serving.chat.notations.marked_calls import MarkedStyle
from llm_serving.chat.notations.notation import Notation

_OPEN, _CLOSE = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_HEAD = re.compile(
    rf"\s*{re.escape(_CALL)}\s*(?:functions\.)?([^\s:<]+)(?::[0-9]+)?\s*{re.escape(_ARGUMENTS)}\s*"
)
_TAIL = re.compile(rf"\s*{re.escape(_CALL_END)}")


def call_id(name: str, place: str) -> str:
    """As the model writes it, and wants it with the result."""
    return f"functions.{name}:{place}"


def _around(name: str, place: str) -> tuple[str, str]:
    return f"{_CALL}{call_id(name, place)}{_ARGUMENTS}", _CALL_END


_STYLE = MarkedStyle(_OPEN, _CLOSE, _HEAD, _TAIL, _around, any_place="/[0-9]{1,3}/")
KIMI = Notation(
    (_OPEN, _CALL),
    open=_OPEN,
    read=_STYLE.read,
    write=_STYLE.write,
    grammar=_STYLE.grammar,
    close=_CLOSE,
    marks=(_OPEN, _CLOSE, _CALL, _ARGUMENTS, _CALL_END),
    whole=_CALL_END,
    id_of=call_id,
)
