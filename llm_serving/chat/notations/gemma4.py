"""Gemma 4's calls: `<|tool_call>call:NAME{KEY:<|"|>TEXT<|"|>,KEY:[1,true]}<tool_call|>`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.gemma4_values import MARK, ValueRules, written
from llm_serving.chat.notations.literals import Literals
from llm_serving.chat.notations.notation import Call, Notation, Quote
from llm_serving.chat.tools import Calls, Tool

_OPEN, _CLOSE = "<|tool_call>", "<tool_call|>"
_NAME = re.compile(r"call:[^\s{]+")


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """One call."""
    literals = Literals(text)
    try:
        name = literals.match(_NAME).removeprefix("call:")
        call = Call(name, literals.value())
    except ValueError:
        return None
    return [call] if literals.is_over else None


def write(calls: Sequence[Call]) -> str:
    return "".join(f"{_OPEN}call:{name}{written(arguments)}{_CLOSE}" for name, arguments in calls)


def grammar(calls: Calls, marks: lark.Marks) -> str:
    lines = lark.answer(calls, _OPEN, marks, between="")
    lines.append(f"rest: {' | '.join(f'call{i}' for i in range(len(calls.tools)))}")
    for i, tool in enumerate(calls.tools):
        rules = ValueRules(tool, f"v{i}", marks)
        value = rules.value(tool.parameters)
        front = lark.literal(f"call:{tool.name}")
        lines += [f"call{i}: {front} {value} {lark.literal(_CLOSE, marks)}", *rules.lines]
    return "\n".join(lines)


GEMMA4 = Notation(
    (_OPEN,),
    open=_OPEN,
    read=read,
    write=write,
    grammar=grammar,
    close=_CLOSE,
    marks=(_OPEN, _CLOSE, MARK),
    quotes=(Quote(MARK, MARK),),
    whole="}",
    text_is_thought=True,
)
