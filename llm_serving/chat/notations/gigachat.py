"""GigaChat 3's calls: JSON behind a mark, or, in the first ones, in a message of a role of its own.

<|function_call|>{"name": NAME, "arguments": {…}}
<|message_sep|>

function call<|role_sep|>
{"name": NAME, "arguments": {…}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.json_calls import json_body, json_call, read_json
from llm_serving.chat.notations.notation import Call, Notation
from llm_serving.chat.tools import Calls, Tool

_CALL = "<|function_call|>"
_ROLE = "function call<|role_sep|>\n"
_END = "<|message_sep|>"  # of a message


def _read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    return read_json(text)


@dataclass(frozen=True, slots=True)
class _Style:
    front: str
    before: str = ""  # what may stand in front of that; a token, if it is one that ends no answers

    def write(self, calls: Sequence[Call]) -> str:
        return "\n".join(f"{self.before}{self.front}{json_call(call)}" for call in calls)

    def grammar(self, calls: Calls, marks: lark.Marks) -> str:
        lines = lark.answer(calls, self.front, marks)
        if self.before:
            lines[-1] = lines[-1].replace("call: ", f"call: ({lark.literal(self.before, marks)})? ", 1)
        return "\n".join([*lines, f"rest: {json_body(calls.tools)}"])


def _notation(sign: str, style: _Style, marks: tuple[str, ...], *others: str) -> Notation:
    return Notation(
        (sign,),
        open=f"{style.before}{style.front}",
        read=_read,
        write=style.write,
        grammar=style.grammar,
        others=others,
        brackets="{}",
        marks=marks,
        one_a_message=True,
    )


GIGACHAT = _notation(_CALL, _Style(_CALL), (_CALL,))
GIGACHAT_ROLE = _notation("'function call'", _Style(_ROLE, f"{_END}\n\n"), (_END, "<|role_sep|>"), _ROLE)
