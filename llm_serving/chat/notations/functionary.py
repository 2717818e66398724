"""Functionary's calls: 3.1's `<function=NAME>{…}</function>`, one behind the other; 3.2's behind `>>>NAME`.

What 3.2 writes is for a recipient, the user's is `all`; see `chat/frames.py`:

>>>all
TEXT
>>>NAME
{…}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.json_calls import json_at, json_text
from llm_serving.chat.notations.notation import Call, Notation
from llm_serving.chat.tools import Calls, Tool

_OPEN, _CLOSE = "<function=", "</function>"
_NAME = re.compile(r"([^\s<>]+)>\s*")


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """One call."""
    head = _NAME.match(text)
    found = json_at(text, head.end()) if head else None
    if head is None or found is None or text[found[1] :].strip():
        return None
    return [Call(head[1], found[0])]


def write(calls: Sequence[Call]) -> str:
    return "".join(f"{_OPEN}{name}>{json_text(arguments)}{_CLOSE}" for name, arguments in calls)


def grammar(calls: Calls, marks: lark.Marks) -> str:
    lines = lark.answer(calls, _OPEN, marks, between="")
    lines.append("rest: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    for i, tool in enumerate(calls.tools):
        lines.append(f"call{i}: {lark.literal(f'{tool.name}>')} arguments{i} {lark.literal(_CLOSE)}")
        lines.append(lark.json_rule(f"arguments{i}", tool.parameters))
    return "\n".join(lines)


FUNCTIONARY = Notation(
    (_OPEN, _CLOSE), open=_OPEN, read=read, write=write, grammar=grammar, close=_CLOSE, whole="}"
)

_FOR, _BEHIND_NAME = ">>>", "\n"
_RECIPIENT = re.compile(r"([^\s<>]+)\n\s*")


def _read_for(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """One call, which begins with the name."""
    head = _RECIPIENT.match(text)
    found = json_at(text, head.end()) if head else None
    if head is None or found is None or text[found[1] :].strip():
        return None
    return [Call(head[1], found[0])]


def _write_for(calls: Sequence[Call]) -> str:
    return "".join(f"{_FOR}{name}{_BEHIND_NAME}{json_text(arguments)}" for name, arguments in calls)


def _grammar_for(calls: Calls, marks: lark.Marks) -> str:
    """The prompt has the first `>>>`."""
    mark = lark.literal(_FOR)
    more = f" ({mark} call)*" if calls.are_many else ""
    lines = [f"start: call{more}"]
    if not calls.is_required:
        lines = [f'start: call{more} | "all\\n" text | "all\\n" head call{more}']
        lines += [lark.text("text", _FOR), lark.text_up_to("head", _FOR, {})]
    lines.append("call: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    for i, tool in enumerate(calls.tools):
        lines.append(f"call{i}: {lark.literal(tool.name + _BEHIND_NAME)} arguments{i}")
        lines.append(lark.json_rule(f"arguments{i}", tool.parameters))
    return "\n".join(lines)


FUNCTIONARY_FOR = Notation(
    (">>>${recipient}",),
    open=_FOR,
    read=_read_for,
    write=_write_for,
    grammar=_grammar_for,
    behind_name=_BEHIND_NAME,
    brackets="{}",
)
