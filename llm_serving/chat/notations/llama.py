"""Llama 3's calls: an answer that is nothing but JSON, `{"name": NAME, "parameters": {…}}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.json_calls import Shape, json_body, json_call, read_json
from llm_serving.chat.notations.notation import Call, Notation
from llm_serving.chat.notations.unmarked import FENCED
from llm_serving.chat.tools import Calls, Tool

_TAG = "<|python_tag|>"  # which may stand before it
_SHAPE = Shape("parameters")


def _read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    found = read_json(text, _SHAPE)
    is_other = found is not None and found[0].arguments == {}
    return read_json(text) if is_other else found  # some write "arguments" as others do


def _write(calls: Sequence[Call]) -> str:
    return "\n".join(json_call(call, _SHAPE) for call in calls)


def _grammar(calls: Calls, marks: lark.Marks) -> str:
    lines = [f"call: {json_body(calls.tools, _SHAPE)}"]
    if calls.is_required:
        return "\n".join(["start: call", *lines])
    text = rf"TEXT: /\s*[^\s{{](?s:.*)/ & ~/{lark.escaped(_TAG)}(?s:.*)/"
    return "\n".join(["start: TEXT | call", text, *lines])


LLAMA = Notation(
    ("ipython", '"parameters": '),
    open=_TAG,
    read=_read,
    write=_write,
    grammar=_grammar,
    brackets="{}",
    is_first=True,
    one_a_message=True,
    also=FENCED,
)
