"""Arguments between pairs of tags, as GLM-4.5 to 4.7 write calls; 4.7 has no line ends between them.

<tool_call>NAME
<arg_key>KEY</arg_key>
<arg_value>VALUE</arg_value>
</tool_call>
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.notation import Call, Notation, Quote
from llm_serving.chat.notations.schemas import value_of
from llm_serving.chat.notations.tag_calls import as_text, schema_of
from llm_serving.chat.notations.tags import CLOSE, OPEN
from llm_serving.chat.tools import Calls, Tool

_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = "<arg_value>", "</arg_value>"
# An argument ends where another follows, or nothing: texts may hold tags.
_PAIR = re.compile(
    rf"{_KEY}([^<]*){_KEY_END}\s*{_VALUE}(.*?){_VALUE_END}\s*(?={_KEY}|\Z)", re.DOTALL
)  # fmt: skip


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """One call. Values are texts; those that the schema does not want as texts are JSON, if they can be."""
    name, key, _ = text.partition(_KEY)
    name = name.strip()
    if name not in tools:
        return None
    root = tools[name].parameters
    arguments: dict[str, Any] = {}
    at = text.find(_KEY) if key else len(text)
    while match := _PAIR.match(text, at):
        arguments[match[1]] = value_of(match[2], schema_of(match[1], root), root)
        at = match.end()
    return None if text[at:].strip() else [Call(name, arguments)]


def _write(calls: Sequence[Call], gap: str) -> str:
    return gap.join(f"{OPEN}{call.name}{gap}{_arguments(call, gap)}{CLOSE}" for call in calls)


def _arguments(call: Call, gap: str) -> str:
    pairs = call.arguments.items()
    return "".join(f"{_KEY}{k}{_KEY_END}{gap}{_VALUE}{as_text(v)}{_VALUE_END}{gap}" for k, v in pairs)


def _grammar(calls: Calls, marks: lark.Marks, gap: str) -> str:
    style = lark.ArgumentStyle(_KEY, f"{_KEY_END}{gap}{_VALUE}", f"{_VALUE_END}{gap}")
    lines = lark.answer(calls, OPEN, marks, between=gap)
    lines.append("rest: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    for i, tool in enumerate(calls.tools):
        lines.append(f"call{i}: {lark.literal(tool.name + gap)} arguments{i} {lark.literal(CLOSE, marks)}")
        lines += lark.argument_rules(f"arguments{i}", tool, style)
    return "\n".join(lines)


def _notation(gap: str, *signs: str) -> Notation:
    return Notation(
        (OPEN, _KEY, *signs),
        open=OPEN,
        read=read,
        write=partial(_write, gap=gap),
        grammar=partial(_grammar, gap=gap),
        close=CLOSE,
        marks=(OPEN, CLOSE),
        quotes=(Quote(_VALUE, _VALUE_END),),
    )


GLM_COMPACT = _notation("", f"{_KEY_END}{_VALUE}")
GLM = _notation("\n")
