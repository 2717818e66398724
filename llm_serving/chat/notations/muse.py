"""Muse Glimmer's calls: each a message for the function, with tags in it; see `chat/frames.py`.

<|start|>assistant to=NAME<|message|><atem:function_calls>
<atem:invoke name="NAME">
<atem:parameter name="KEY">VALUE</atem:parameter>
</atem:invoke>
</atem:function_calls>
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.notation import Call, Notation, Quote
from llm_serving.chat.notations.tag_calls import TagStyle
from llm_serving.chat.tools import Calls, Tool

_BEGUN, _TO, _MESSAGE, _END = "<|start|>assistant", " to=", "<|message|>", "<|eom|>"
_STYLE = TagStyle(
    "<atem:function_calls>",
    "</atem:function_calls>",
    function='<atem:invoke name="',
    named='">',
    function_end="</atem:invoke>",
    key='<atem:parameter name="',
    value='">',
    value_end="</atem:parameter>",
    is_section=True,
)
_HEAD = re.compile(rf"[^\s<]+{re.escape(_MESSAGE)}\s*{re.escape(_STYLE.open)}")


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """One call, which begins with the name."""
    head = _HEAD.match(text)
    return _STYLE.read(text[head.end() :], tools) if head else None


def write(calls: Sequence[Call]) -> str:
    return "".join(f"{_BEGUN}{_TO}{call.name}{_MESSAGE}{_STYLE.write([call])}" for call in calls)


def grammar(calls: Calls, marks: lark.Marks) -> str:
    """The prompt has the begin of the first message."""
    end, begun = lark.literal(_END, marks), lark.literal(_BEGUN, marks)
    more = f" ({end} {begun} call)*" if calls.are_many else ""
    if calls.is_required:
        lines = [f"start: call{more}"]
    else:
        to = {name: lark.literal(f"{_TO}{name}{_MESSAGE}", marks) for name in ("self", "user")}
        lines = [
            f"start: ({to['self']} head {begun})? (calls | {to['user']} (text | head {begun} calls))",
            f"calls: call{more}",
            lark.text("text", _END),
            lark.text_up_to("head", _END, marks),
        ]
    lines.append("call: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    style = lark.ArgumentStyle(_STYLE.key, _STYLE.value, f"{_STYLE.value_end}\n")
    back = lark.literal(f"{_STYLE.function_end}\n{_STYLE.close}")
    for i, tool in enumerate(calls.tools):
        front = f"{_TO}{tool.name}{_MESSAGE}{_STYLE.open}\n{_STYLE.function}{tool.name}{_STYLE.named}\n"
        lines.append(f"call{i}: {lark.literal(front, marks)} arguments{i} {back}")
        lines += lark.argument_rules(f"arguments{i}", tool, style)
    return "\n".join(lines)


MUSE = Notation(
    (_STYLE.open, f"{_BEGUN}{_TO}"),
    open=f"{_BEGUN}{_TO}",
    read=read,
    write=write,
    grammar=grammar,
    behind_name=_MESSAGE,
    close=_STYLE.close,
    marks=("<|start|>", _MESSAGE, _END),
    quotes=(Quote(_STYLE.key, _STYLE.value_end),),
    text_is_thought=True,
)
