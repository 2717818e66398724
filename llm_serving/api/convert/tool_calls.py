"""Calls of functions in the text of an answer. What is no valid call stays text, never an error."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from llm_serving.api.convert.tags import num_clear
from llm_serving.chat.messages import MAX_CALL_DEPTH, is_within
from llm_serving.chat.tools import CLOSE, OPEN, Tool
from llm_serving.chat.xml_calls import read_xml_call


class ToolCall(NamedTuple):
    """A call of one answer, complete."""

    place: int  # among the calls of its answer
    id: str
    name: str
    arguments: str  # JSON

    def fields(self) -> dict[str, Any]:
        """As a message has it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


def calls_fields(calls: Sequence[ToolCall], *, is_older: bool) -> dict[str, Any]:
    """Calls as a message has them; in the older words, in which there is one at most."""
    fields = [call.fields() for call in calls]
    return {"function_call": fields[0]["function"]} if is_older else {"tool_calls": fields}


class CallReader:
    """Takes one choice's text as it comes; gives text that is the answer's, and calls.

    Blanks around calls are nobody's. Of several calls only the first counts unless there may be `many`.
    """

    def __init__(self, tools: Mapping[str, Tool], *, many: bool) -> None:
        self._tools = tools
        self._many = many
        self._held = ""  # not decided yet
        self.num_calls = 0

    def feed(self, text: str, *, is_last: bool = False) -> tuple[str, list[ToolCall]]:
        """(text to show, calls that are complete now). Behind the last text nothing is held back."""
        self._held += text
        shown: list[str] = []
        calls: list[ToolCall] = []
        while (begin := self._held.find(OPEN)) >= 0:
            end = self._held.find(CLOSE, begin)
            if end < 0 and not is_last:
                break
            inside = self._held[begin + len(OPEN) : end] if end >= 0 else self._held[begin + len(OPEN) :]
            behind = end + len(CLOSE) if end >= 0 else len(self._held)
            call = self._call(inside)
            if call is None:
                shown.append(self._held[:behind])
            else:
                shown.append(self._held[:begin].rstrip())
                if self._many or call.place == 0:
                    calls.append(call)
                self.num_calls += 1
            self._held = self._held[behind:]
        clear = begin if begin >= 0 else num_clear(self._held, OPEN)
        free = self._held if is_last else self._held[:clear].rstrip()
        self._held = self._held[len(free) :]
        if not (is_last and self.num_calls and free.isspace()):
            shown.append(free)
        return "".join(shown), calls

    def _call(self, text: str) -> ToolCall | None:
        try:
            call = orjson.loads(text)
        except orjson.JSONDecodeError:
            found = read_xml_call(text, self._tools)
            return None if found is None else to_call(self.num_calls, *found)
        name = call.get("name") if isinstance(call, dict) else None
        if not isinstance(name, str) or name not in self._tools:
            return None
        return to_call(self.num_calls, name, call.get("arguments", {}))


def read_call(place: int, name: str, arguments: str) -> ToolCall | None:
    """A call whose arguments the model wrote as JSON; None if they are no such."""
    try:
        return to_call(place, name, orjson.loads(arguments))
    except orjson.JSONDecodeError:
        return None


def to_call(place: int, name: str, arguments: Any) -> ToolCall | None:
    """None if these are no arguments: an object, not nested too deep."""
    if not isinstance(arguments, dict) or not is_within(arguments, MAX_CALL_DEPTH):
        return None
    return ToolCall(place, f"call_{os.urandom(12).hex()}", name, orjson.dumps(arguments).decode())
