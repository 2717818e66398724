"""Solar Open's calls: a message of their own, each with an id of ten letters; see `chat/frames.py`.

<|tool_calls|><|tool_call:begin|>ID<|tool_call:name|>NAME<|tool_call:args|>{…}<|tool_call:end|><|calls|>
"""

from __future__ import annotations

import re

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.marked_calls import MarkedStyle
from llm_serving.chat.notations.notation import Notation
from llm_serving.chat.tools import Calls

_OPEN, _CLOSE = "<|tool_calls|>", "<|calls|>"
_CALL, _NAME, _ARGUMENTS, _CALL_END = (f"<|tool_call:{part}|>" for part in ("begin", "name", "args", "end"))
_BEGUN, _CONTENT, _END = "<|begin|>assistant", "<|content|>", "<|end|>"
_HEAD = re.compile(
    rf"\s*{re.escape(_CALL)}[^\s<]*{re.escape(_NAME)}\s*([^\s<]+?)\s*{re.escape(_ARGUMENTS)}\s*"
)
_TAIL = re.compile(rf"\s*{re.escape(_CALL_END)}")


def call_id(name: str, place: str) -> str:
    """Ten letters and digits."""
    return f"call{int(place):06d}"


def _around(name: str, place: str) -> tuple[str, str]:
    written = call_id(name, place) if place.isdigit() else place
    return f"{_CALL}{written}{_NAME}{name}{_ARGUMENTS}", _CALL_END


_STYLE = MarkedStyle(_OPEN, _CLOSE, _HEAD, _TAIL, _around, any_place="/[a-z0-9]{10}/", is_end=True)


def _grammar(calls: Calls, marks: lark.Marks) -> str:
    """The prompt has the begin of the first message, those behind it have their own."""
    lines = _STYLE.grammar(calls, marks).split("\n")
    kept = [line for line in lines if not line.startswith(("start:", "head", "TEXT:"))]
    begun, content = (lark.literal(mark, marks) for mark in (_BEGUN, _CONTENT))
    if calls.is_required:
        return "\n".join([f"start: ({begun})? call", *kept])
    start = f"start: ({begun})? (call | ({content})? text | ({content})? head ({begun} call)?)"
    texts = [lark.text("text", _END, _OPEN), lark.text_up_to("head", _END, marks)]
    return "\n".join([start, *texts, *kept])


SOLAR_OPEN = Notation(
    (_OPEN, _CALL),
    open=_OPEN,
    read=_STYLE.read,
    write=_STYLE.write,
    grammar=_grammar,
    close=_CLOSE,
    marks=(_OPEN, _CLOSE, _CALL, _NAME, _ARGUMENTS, _CALL_END, "<|begin|>", _CONTENT, _END),
    whole=_CALL_END,
    id_of=call_id,
    text_is_thought=True,
)
