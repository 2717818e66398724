"""A tag for the function and one for each argument: what several families write, with tags of their own.

Values are texts as they stand; those that the schema does not want as texts are JSON, if they can be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.notation import Call, Notation, Quote, Read
from llm_serving.chat.notations.schemas import Schema, resolved, takes_text, value_of
from llm_serving.chat.tools import Calls, Tool


@dataclass(frozen=True)
class TagStyle:
    """`open`, then functions, `close`. A function is `function` NAME `named`, its arguments, `function_end`.

    An argument is `key` NAME `value` VALUE `value_end`.

    json_value: in place of `value` before what is no text, if that is told.
    is_section: several functions stand in one pair of `open` and `close`.
    """

    open: str
    close: str
    function: str = "<function="
    named: str = ">"
    function_end: str = "</function>"
    key: str = "<parameter="
    value: str = ">"
    value_end: str = "</parameter>"
    json_value: str = ""
    is_section: bool = False
    has_lines: bool = False  # values stand on lines of their own
    marks: tuple[str, ...] | None = None  # what may be special tokens; None: `open` and `close`

    def read(self, text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
        """Functions one after the other; blanks around tags are nobody's."""
        calls: list[Call] = []
        at = 0
        while head := self._head.match(text, at):
            if (tool := tools.get(head[1])) is None:
                return None
            arguments: dict[str, Any] = {}
            at = head.end()
            while key := self._key.match(text, at):
                if (end := self._end.search(text, key.end())) is None:
                    return None
                written = text[key.end() : end.start()]
                arguments[key[1]] = self._value(written, key[1], tool.parameters, key[0])
                at = end.end()
            tail = self._tail.match(text, at)
            at = tail.end() if tail else at
            calls.append(Call(tool.name, arguments))
            if not (tail and self.is_section):
                break
        return calls if calls and not text[at:].strip() else None

    def _value(self, text: str, name: str, root: Schema, front: str) -> Any:
        if self.has_lines:
            text = text.removeprefix("\n").removesuffix("\n")
        schema = schema_of(name, root)
        if self.json_value and front.endswith(self.value) and takes_text(schema, root):
            return text
        return value_of(text, schema, root)

    def write(self, calls: Sequence[Call]) -> str:
        if self.is_section:
            return f"{self.open}\n{''.join(map(self._written, calls))}{self.close}"
        return "\n".join(f"{self.open}\n{self._written(call)}{self.close}" for call in calls)

    def _written(self, call: Call) -> str:
        gap = "\n" if self.has_lines else ""
        texts = [f"{self.function}{call.name}{self.named}\n"]
        for name, value in call.arguments.items():
            front = self.value if isinstance(value, str) or not self.json_value else self.json_value
            texts.append(f"{self.key}{name}{front}{gap}{as_text(value)}{gap}{self.value_end}\n")
        return "".join([*texts, f"{self.function_end}\n"])

    def grammar(self, calls: Calls, marks: lark.Marks) -> str:
        gap = "\n" if self.has_lines else ""
        style = lark.ArgumentStyle(
            self.key,
            self.value + gap,
            f"{gap}{self.value_end}\n",
            before_json=self.json_value + gap if self.json_value else None,
            marks=marks,
        )
        lines = lark.answer(calls, self.open, marks, between=None if self.is_section else "\n")
        more = " one*" if self.is_section and calls.are_many else ""
        lines.append(f'rest: "\\n" one{more} {lark.literal(self.close, marks)}')
        lines.append("one: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
        back = lark.literal(f"{self.function_end}\n", marks)
        for i, tool in enumerate(calls.tools):
            front = lark.literal(f"{self.function}{tool.name}{self.named}\n", marks)
            lines.append(f"call{i}: {front} arguments{i} {back}")
            lines += lark.argument_rules(f"arguments{i}", tool, style)
        return "\n".join(lines)

    def notation(self, *, signs: Sequence[str] = (), read: Read | None = None) -> Notation:
        """`signs` and `read` are in place of this style's own."""
        return Notation(
            tuple(signs) or (self.open, self.function, self.key),
            open=self.open,
            read=read or self.read,
            write=self.write,
            grammar=self.grammar,
            close=self.close,
            marks=(self.open, self.close) if self.marks is None else self.marks,
            quotes=(Quote(self.key, self.value_end),),
            whole=self.function_end,
        )

    @cached_property
    def _head(self) -> re.Pattern[str]:
        return re.compile(rf"\s*{re.escape(self.function)}([^<>]*?){re.escape(self.named)}")

    @cached_property
    def _key(self) -> re.Pattern[str]:
        values = "|".join(map(_with_any_blanks, filter(None, (self.value, self.json_value))))
        return re.compile(rf"\s*{re.escape(self.key)}([^<>]*?)(?:{values})")

    @cached_property
    def _end(self) -> re.Pattern[str]:
        """An argument ends where another follows, a function, or nothing: texts may hold tags."""
        key, function, end = map(re.escape, (self.key, self.function, self.function_end))
        behind = rf"(?:\Z|{function})" if self.is_section else r"\Z"
        return re.compile(rf"{re.escape(self.value_end)}\s*(?={key}|{end}\s*{behind}|\Z)")

    @cached_property
    def _tail(self) -> re.Pattern[str]:
        return re.compile(rf"\s*{re.escape(self.function_end)}")


def _with_any_blanks(text: str) -> str:
    """An expression for it, whatever stands for a line's end."""
    return r"\s*".join(map(re.escape, text.split("\n")))


def schema_of(key: str, root: Mapping[str, Any]) -> Any:
    """Of one argument."""
    schema = resolved(root, root)
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    return schema.get("additionalProperties")


def as_text(value: Any) -> str:
    """A value outside of JSON: texts as they are."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
