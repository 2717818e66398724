"""Kimi K3's calls: tags of three tokens, in a section behind the answer's text; see `chat/frames.py`.

<|open|>tools<|sep|><|open|>call tool="NAME" index="1"<|sep|>
<|open|>argument key="KEY" type="string"<|sep|>VALUE<|close|>argument<|sep|>
<|close|>call<|sep|><|close|>tools<|sep|>                                     without the lines' ends
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import unescape
from typing import Any

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.notation import Call, Notation, Quote
from llm_serving.chat.notations.schemas import type_of, value_of
from llm_serving.chat.notations.tag_calls import as_text, schema_of
from llm_serving.chat.tools import Calls, Tool

_BEGIN, _END, _SEP = "<|open|>", "<|close|>", "<|sep|>"


def _open(tag: str) -> str:
    return f"{_BEGIN}{tag}{_SEP}"


def _close(tag: str) -> str:
    return f"{_END}{tag}{_SEP}"


_OPEN, _CLOSE = _open("tools"), _close("tools")
_KEY, _VALUE_END = f'{_BEGIN}argument key="', _close("argument")
_HEAD = re.compile(rf'\s*{re.escape(_BEGIN)}call tool="([^"<]*)"[^<]*{re.escape(_SEP)}')
_ARGUMENT = re.compile(rf'\s*{re.escape(_KEY)}([^"<]*)"(?: type="(\w+)")?\s*{re.escape(_SEP)}')
# An argument ends where another follows, or the call does: texts may hold tags.
_ARGUMENT_END = re.compile(
    rf"{re.escape(_VALUE_END)}\s*(?={re.escape(_KEY)}|{re.escape(_close('call'))}\s*(?:\Z|{re.escape(_BEGIN)}call))"
)
_JSON = re.compile(
    rf"\s*{re.escape(_BEGIN)}json[^<]*{re.escape(_SEP)}(.*?){re.escape(_close('json'))}", re.DOTALL
)
_TAIL = re.compile(rf"\s*{re.escape(_close('call'))}")


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """One call after the other. What is told to be a text is one where the schema lets it."""
    calls: list[Call] = []
    at = 0
    while head := _HEAD.match(text, at):
        name = unescape(head[1])
        if name not in tools:
            return None
        root, at = tools[name].parameters, head.end()
        arguments: Any = {}
        if block := _JSON.match(text, at):
            arguments, at = value_of(block[1], None, root), block.end()
        while key := _ARGUMENT.match(text, at):
            end = _ARGUMENT_END.search(text, key.end())
            if end is None or not isinstance(arguments, dict):
                return None
            schema = {"type": "string"} if key[2] == "string" else schema_of(unescape(key[1]), root)
            arguments[unescape(key[1])] = value_of(text[key.end() : end.start()], schema, root)
            at = end.end()
        tail = _TAIL.match(text, at)
        if tail is None:
            return None
        at = tail.end()
        calls.append(Call(name, arguments))
    return calls if calls and not text[at:].strip() else None


def write(calls: Sequence[Call]) -> str:
    texts = []
    for index, (name, arguments) in enumerate(calls, 1):
        texts.append(_open(f'call tool="{_attribute(name)}" index="{index}"'))
        for key, value in arguments.items():
            front = _open(f'argument key="{_attribute(key)}" type="{_kind(type_of(value))}"')
            texts.append(f"{front}{as_text(value)}{_VALUE_END}")
        texts.append(_close("call"))
    return f"{_OPEN}{''.join(texts)}{_CLOSE}"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")


def _kind(json_type: str) -> str:
    return "number" if json_type == "integer" else json_type


def grammar(calls: Calls, marks: lark.Marks) -> str:
    """The prompt has opened the thoughts, or the text behind them."""
    think, text = _close("think"), _close("response")
    opened, message_end = (lark.literal(each, marks) for each in (_open("response"), _close("message")))
    if calls.is_required:
        none, text_end = (lark.literal(each, marks) for each in (think, text))
        lines = [f"start: ({none} {opened})? {text_end} tools ({message_end})?"]
    else:
        lines = [
            f"start: (think {opened})? text tools? ({message_end})?",
            lark.text_up_to("think", think, marks),
            lark.text_up_to("text", text, marks),
        ]
    tools_end = lark.literal(_CLOSE, marks)
    more = " one*" if calls.are_many else ""
    lines.append(f"tools: {lark.literal(_OPEN, marks)} one{more} {tools_end}")
    lines.append("one: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    style = lark.ArgumentStyle(
        _KEY,
        f'" type="string"{_SEP}',
        _VALUE_END,
        before_json=f'" type="{lark.TYPE}"{_SEP}',
        marks=marks,
    )
    sep, back = lark.literal(f'"{_SEP}', marks), lark.literal(_close("call"), marks)
    for i, tool in enumerate(calls.tools):
        front = lark.literal(f'{_BEGIN}call tool="{tool.name}" index="', marks)
        lines.append(f"call{i}: {front} /[1-9][0-9]{{0,2}}/ {sep} arguments{i} {back}")
        lines += lark.argument_rules(f"arguments{i}", tool, style)
    return "\n".join(lines)


KIMI3 = Notation(
    ("open_tag('tools')", "open_tag('call'"),
    open=_OPEN,
    read=read,
    write=write,
    grammar=grammar,
    close=_CLOSE,
    marks=(_BEGIN, _END, _SEP),
    quotes=(Quote(_KEY, _VALUE_END), Quote(f"{_BEGIN}json", _close("json"))),
    whole=_close("call"),
)
