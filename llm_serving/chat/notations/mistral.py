"""Mistral's calls: a list of JSON behind `[TOOL_CALLS]`, and later each call with marks of its own.

[TOOL_CALLS][{"name": NAME, "arguments": {…}}, …]
[TOOL_CALLS]NAME[ARGS]{…}[TOOL_CALLS]…       some models also have [CALL_ID]… behind the name
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.json_calls import json_at, json_text
from llm_serving.chat.notations.json_lists import ListStyle, list_notation
from llm_serving.chat.notations.notation import Call, Notation
from llm_serving.chat.tools import Calls, Tool

_OPEN, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_HEAD = re.compile(r"\s*([^\s\[]+)(?:\[CALL_ID\]\w*)?\[ARGS\]\s*")


def _read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    head = _HEAD.match(text)
    found = json_at(text, head.end()) if head else None
    if head is None or found is None or text[found[1] :].strip():
        return None
    return [Call(head[1], found[0])]


def _write(calls: Sequence[Call]) -> str:
    return "".join(f"{_OPEN}{name}{_ARGS}{json_text(arguments)}" for name, arguments in calls)


def _grammar(calls: Calls, marks: lark.Marks, has_ids: bool) -> str:
    lines = lark.answer(calls, _OPEN, marks, between="")
    lines.append("rest: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    call_id = f" {lark.literal(_ID, marks)} /[a-zA-Z0-9]{{9}}/" if has_ids else ""
    for i, tool in enumerate(calls.tools):
        lines.append(f"call{i}: {lark.literal(tool.name)}{call_id} {lark.literal(_ARGS, marks)} arguments{i}")
        lines.append(lark.json_rule(f"arguments{i}", tool.parameters))
    return "\n".join(lines)


def _notation(*signs: str) -> Notation:
    return Notation(
        (_OPEN, _ARGS, *signs),
        open=_OPEN,
        read=_read,
        write=_write,
        grammar=partial(_grammar, has_ids=_ID in signs),
        brackets="{}",
        marks=(_OPEN, _ARGS, _ID),
        short_ids=True,
    )


MISTRAL_IDS = _notation(_ID)
MISTRAL = _notation()
MISTRAL_LIST = list_notation(ListStyle(_OPEN), short_ids=True)
