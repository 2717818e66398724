"""Calls between marks of their own, all of them between two more: DeepSeek's and Kimi's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.json_calls import json_at, json_text
from llm_serving.chat.notations.notation import Call
from llm_serving.chat.tools import Calls, Tool


@dataclass(frozen=True, slots=True)
class MarkedStyle:
    """Between `open` and `close` calls with `gap` between them, each `around` its arguments, which are JSON.

    around: a function's name and the call's place → what stands before the arguments, and behind.
    head, tail: these as models write them; one of the groups of `head` is the name.
    is_end: `close` ends an answer, too, so it need not be written.
    any_place: a Lark expression for `place` in what is bound, where `around` writes it.
    """

    open: str
    close: str
    head: re.Pattern[str]
    tail: re.Pattern[str]
    around: Callable[[str, str], tuple[str, str]]
    gap: str = ""
    any_place: str = ""
    is_end: bool = False

    def read(self, text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
        calls: list[Call] = []
        at = 0
        while head := self.head.match(text, at):
            found = json_at(text, head.end())
            tail = self.tail.match(text, found[1]) if found is not None else None
            if found is None or tail is None:
                return None
            calls.append(Call(next(filter(None, head.groups())), found[0]))
            at = tail.end()
        return calls if calls and not text[at:].strip() else None

    def write(self, calls: Sequence[Call]) -> str:
        texts = []
        for place, call in enumerate(calls):
            front, back = self.around(call.name, str(place))
            texts.append(f"{front}{json_text(call.arguments)}{back}")
        return f"{self.open}{self.gap.join(texts)}{self.close}"

    def grammar(self, calls: Calls, marks: lark.Marks) -> str:
        lines = lark.answer(calls, self.open, marks)
        gap = f"{lark.literal(self.gap)} " if self.gap else ""
        more = f" ({gap}one)*" if calls.are_many else ""
        close = lark.literal(self.close, marks)
        lines.append(f"rest: one{more} {f'({close})?' if self.is_end else close}")
        lines.append("one: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
        for i, tool in enumerate(calls.tools):
            front, back = self.around(tool.name, _PLACE)
            before = (lark.literal(part, marks) for part in front.split(_PLACE))
            lines.append(
                f"call{i}: {f' {self.any_place} '.join(before)} arguments{i} {lark.literal(back, marks)}"
            )
            lines.append(lark.json_rule(f"arguments{i}", tool.parameters))
        return "\n".join(lines)


_PLACE = "\0"  # in no function's name
