"""LFM2's calls, in almost Python: `<|tool_call_start|>[NAME(KEY="…", KEY=1)]<|tool_call_end|>`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.literals import Literals
from llm_serving.chat.notations.notation import Call, Notation, Quote
from llm_serving.chat.tools import Calls, Tool

_OPEN, _CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_KEY = re.compile(r"[^\s=,()]+")
_STYLE = lark.ArgumentStyle(
    "", "=", separator=", ", is_raw=False, words={"boolean": '"True" | "False"', "null": '"None"'}
)


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """A list of calls, each with arguments by name."""
    try:
        return _read(Literals(text))
    except ValueError:
        return None


def _read(literals: Literals) -> list[Call]:
    calls: list[Call] = []
    literals.need("[")
    while not literals.take("]"):
        if calls:
            literals.need(",")
        name = literals.match(_NAME)
        literals.need("(")
        arguments: dict[str, Any] = {}
        while not literals.take(")"):
            if arguments:
                literals.need(",")
            key = literals.match(_KEY)
            literals.need("=")
            arguments[key] = literals.value()
        calls.append(Call(name, arguments))
    if not literals.is_over:
        raise ValueError("more than a list")
    return calls


def write(calls: Sequence[Call]) -> str:
    texts = []
    for name, arguments in calls:
        pairs = (f"{key}={_written(value)}" for key, value in arguments.items())
        texts.append(f"{name}({', '.join(pairs)})")
    return f"{_OPEN}[{', '.join(texts)}]{_CLOSE}"


def _written(value: Any) -> str:
    return str(value) if value is None or isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def grammar(calls: Calls, marks: lark.Marks) -> str:
    more = ' (", " one)*' if calls.are_many else ""
    lines = lark.answer(calls, _OPEN, marks)
    lines.append(f'rest: "[" one{more} "]" {lark.literal(_CLOSE, marks)}')
    lines.append("one: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    for i, tool in enumerate(calls.tools):
        lines.append(f'call{i}: {lark.literal(f"{tool.name}(")} arguments{i} ")"')
        lines += lark.argument_rules(f"arguments{i}", tool, _STYLE)
    return "\n".join(lines)


LFM2 = Notation(
    (_OPEN,),
    open=_OPEN,
    read=read,
    write=write,
    grammar=grammar,
    close=_CLOSE,
    marks=(_OPEN, _CLOSE),
    quotes=(Quote('"', '"', escapes=True), Quote("'", "'", escapes=True)),
    whole="]",
)
