"""DeepSeek's tokens around calls: V3 and R1 write arguments in a fence, V3.1 as they are.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.json_calls import json_at, json_text
from llm_serving.chat.notations.notation import Call, Notation
from llm_serving.chat.tools import Calls, Tool

_OPEN, _CLOSE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_FENCE, _FENCE_END = "\n```json\n", "\n```"
_HEAD = re.compile(rf"\s*{_CALL}(?:function{_SEPARATOR}(\S+)\s*```json|(\S+?){_SEPARATOR})\s*")
_TAIL = re.compile(rf"\s*(?:```)?\s*{_CALL_END}")


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """Calls one after the other, fenced or not."""
    calls: list[Call] = []
    at = 0
    while head := _HEAD.match(text, at):
        found = json_at(text, head.end())
        tail = _TAIL.match(text, found[1]) if found is not None else None
        if found is None or tail is None:
            return None
        calls.append(Call(head[1] or head[2], found[0]))
        at = tail.end()
    return calls if calls and not text[at:].strip() else None


def _around(name: str, is_fenced: bool) -> tuple[str, str]:
    if is_fenced:
        return f"{_CALL}function{_SEPARATOR}{name}{_FENCE}", f"{_FENCE_END}{_CALL_END}"
    return f"{_CALL}{name}{_SEPARATOR}", _CALL_END


def _write(calls: Sequence[Call], is_fenced: bool) -> str:
    texts = []
    for call in calls:
        front, back = _around(call.name, is_fenced)
        texts.append(f"{front}{json_text(call.arguments)}{back}")
    gap = "\n" if is_fenced else ""
    return f"{_OPEN}{gap.join(texts)}{_CLOSE}"


def _grammar(calls: Calls, marks: lark.Marks, is_fenced: bool) -> str:
    lines = lark.answer(calls, _OPEN, marks)
    gap = '"\\n" ' if is_fenced else ""
    more = f" ({gap}one)*" if calls.are_many else ""
    lines.append(f"rest: one{more} {lark.literal(_CLOSE, marks)}")
    lines.append("one: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    for i, tool in enumerate(calls.tools):
        front, back = (lark.literal(part, marks) for part in _around(tool.name, is_fenced))
        lines.append(f"call{i}: {front} arguments{i} {back}")
        lines.append(lark.json_rule(f"arguments{i}", tool.parameters))
    return "\n".join(lines)


def _notation(is_fenced: bool, *signs: str) -> Notation:
    return Notation(
        (_OPEN, *signs),
        _OPEN,
        read,
        partial(_write, is_fenced=is_fenced),
        partial(_grammar, is_fenced=is_fenced),
        close=_CLOSE,
        marks=(_OPEN, _CLOSE, _CALL, _CALL_END, _SEPARATOR),
        whole=_CALL_END,
    )


DEEPSEEK_FENCED = _notation(True, "```json")
DEEPSEEK = _notation(False)
