"""JSON between tags, as Hermes, Qwen 2.5 and 3, SmolLM3 and Granite 4 write it, and who is told in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.json_calls import json_body, json_call, read_json
from llm_serving.chat.notations.notation import Call, Notation
from llm_serving.chat.notations.tags import CLOSE, OPEN, read_tags
from llm_serving.chat.notations.unmarked import BARE, FENCED, read_unmarked
from llm_serving.chat.tools import Calls, Tool


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """What a model has learnt it may write, whatever it was told."""
    return read_json(text) or read_tags(text, tools) or read_unmarked(text, tools)


def write(calls: Sequence[Call]) -> str:
    return "\n".join(f"{OPEN}\n{json_call(call)}\n{CLOSE}" for call in calls)


def grammar(calls: Calls, marks: lark.Marks) -> str:
    lines = lark.answer(calls, OPEN, marks, between="\n")
    back = lark.literal(f"\n{CLOSE}", marks)
    return "\n".join([*lines, f'rest: "\\n" body {back}', f"body: {json_body(calls.tools)}"])


HERMES = Notation(
    (OPEN,),
    open=OPEN,
    read=read,
    write=write,
    grammar=grammar,
    close=CLOSE,
    marks=(OPEN, CLOSE),
    whole="}",
    also=(*FENCED, BARE),
)
