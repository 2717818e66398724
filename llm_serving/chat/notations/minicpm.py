"""MiniCPM5's calls: XML, with texts that hold a `<`, a `&` or a line's end in CDATA.

<function name="NAME"><param name="KEY">VALUE</param><param name="KEY"><![CDATA[TEXT]]></param></function>
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.notation import Call, Notation, Quote
from llm_serving.chat.notations.schemas import value_of
from llm_serving.chat.notations.tag_calls import as_text, schema_of
from llm_serving.chat.tools import Calls, Tool

_OPEN, _CLOSE = '<function name="', "</function>"
_KEY, _VALUE, _VALUE_END = '<param name="', '">', "</param>"
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_SPLIT = f"]]{_CDATA_END}{_CDATA}>"  # how CDATA holds its own end
_NAME = re.compile(r'\s*([^<>"]*)">')
_PARAM = re.compile(rf'\s*{_KEY}([^<>]*?)">')
# An argument ends where another follows, or nothing.
_END = re.compile(rf"{_VALUE_END}\s*(?={_KEY}|\Z)")
_CDATA_END_TAG = re.compile(rf"{re.escape(_CDATA_END)}\s*{_VALUE_END}\s*(?={_KEY}|\Z)")


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """One call, without its first mark. What is in CDATA is a text if the schema lets it."""
    head = _NAME.match(text)
    if head is None or head[1] not in tools:
        return None
    root = tools[head[1]].parameters
    arguments: dict[str, Any] = {}
    at = head.end()
    while param := _PARAM.match(text, at):
        at = param.end()
        is_cdata = text.startswith(_CDATA, at)
        end = (_CDATA_END_TAG if is_cdata else _END).search(text, at)
        if end is None:
            return None
        written = text[at + len(_CDATA) * is_cdata : end.start()].replace(_SPLIT, _CDATA_END)
        arguments[param[1]] = value_of(written, schema_of(param[1], root), root)
        at = end.end()
    return None if text[at:].strip() else [Call(head[1], arguments)]


def write(calls: Sequence[Call]) -> str:
    return "\n".join(_written(call) for call in calls)


def _written(call: Call) -> str:
    pairs = (f"{_KEY}{k}{_VALUE}{_value(as_text(v))}{_VALUE_END}" for k, v in call.arguments.items())
    return f"{_OPEN}{call.name}{_VALUE}{''.join(pairs)}{_CLOSE}"


def _value(text: str) -> str:
    if not any(char in text for char in "<&\n"):
        return text
    return f"{_CDATA}{text.replace(_CDATA_END, _SPLIT)}{_CDATA_END}"


def grammar(calls: Calls, marks: lark.Marks) -> str:
    style = lark.ArgumentStyle(_KEY, _VALUE, _VALUE_END, quoted=lark.Quoted("<&\n", _CDATA, _CDATA_END))
    lines = lark.answer(calls, _OPEN, marks, between="\n")
    lines.append("rest: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    for i, tool in enumerate(calls.tools):
        lines.append(f"call{i}: {lark.literal(tool.name + _VALUE)} arguments{i} {lark.literal(_CLOSE)}")
        lines += lark.argument_rules(f"arguments{i}", tool, style)
    return "\n".join(lines)


MINICPM5 = Notation(
    (_OPEN, _KEY, _CDATA),
    open=_OPEN,
    read=read,
    write=write,
    grammar=grammar,
    close=_CLOSE,
    quotes=(Quote(_CDATA, _CDATA_END),),
)
