"""Calls of functions in the text of an answer. What is no valid call stays text, never an error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_serving.api.convert.tags import num_clear
from llm_serving.chat.messages import MAX_CALL_DEPTH, MAX_CALLS, is_within
from llm_serving.chat.notations.end_finder import EndFinder
from llm_serving.chat.notations.notation import Notation
from llm_serving.chat.notations.schemas import load_json
from llm_serving.chat.tools import Tool

_SEPARATED = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # and integers of any size


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

    def __init__(self, tools: Mapping[str, Tool], notation: Notation, *, many: bool) -> None:
        self._tools = tools
        self._notation = notation
        self._many = many
        self._held = ""  # not decided yet
        self._blanks = ""  # before the call at hand
        self._end: EndFinder | None = None  # of the call at hand
        self._num_retries = 0
        self._has_shown = False
        self._is_behind_call = False  # and nothing but blanks came since
        self.num_calls = 0

    def feed(self, text: str, *, is_last: bool = False) -> tuple[str, list[ToolCall]]:
        """(text to show, calls that are complete now). Behind the last text nothing is held back."""
        self._held += text
        shown: list[str] = []
        calls: list[ToolCall] = []
        while self._end is not None or self._begin(shown):
            if not self._finish(shown, calls, is_last):
                break
        if self._end is None:
            free = self._held if is_last else self._held[: self._num_clear()].rstrip()
            self._held = self._held[len(free) :]
            if free.strip():
                self._is_behind_call = False
            if not (is_last and self._is_behind_call):
                shown.append(free)
        out = "".join(shown)
        self._has_shown = self._has_shown or bool(out.strip())
        return out, calls

    def _begin(self, shown: list[str]) -> bool:
        """Whether a call has begun; what is before it is shown."""
        mark, front = self._notation.open, self._held.lstrip()
        if not self._notation.is_first:
            begin = self._held.find(mark)
        elif not self._has_shown and not any(shown) and front.startswith((mark, self._notation.brackets[0])):
            begin, mark = len(self._held) - len(front), mark if front.startswith(mark) else ""
        else:
            begin = -1
        if begin < 0:
            return False
        shown.append(self._held[:begin].rstrip())
        self._blanks = self._held[len(shown[-1]) : begin] + mark
        self._held = self._held[begin + len(mark) :]
        self._end = EndFinder(self._notation)
        return True

    def _finish(self, shown: list[str], calls: list[ToolCall], is_last: bool) -> bool:
        """Whether the call at hand is over, as calls or as text."""
        end = self._end.find(self._held) if self._end is not None else -1
        if end < 0 and not is_last:
            return False
        text, self._held = (self._held[:end], self._held[end:]) if end >= 0 else (self._held, "")
        self._end = None
        whole = self._notation.whole
        is_whole = end >= 0 or (whole is not None and text.rstrip().endswith(whole))
        found = self._calls(text.removesuffix(self._notation.close)) if is_whole else []
        self._is_behind_call = bool(found)
        if not found:
            text = self._from_next(text)
            shown.append(self._blanks + text)
        calls += found[: None if self._many else max(0, 1 - self.num_calls)]
        self.num_calls += len(found)
        return True

    def _from_next(self, text: str) -> str:
        """What of a text that is no call is before the next mark in it; from there it is read again."""
        begin = text.find(self._notation.open)
        if begin < 0 or self._notation.is_first or self._num_retries == MAX_CALLS:
            return text
        self._num_retries += 1
        before = text[:begin].rstrip()
        self._held = text[len(before) :] + self._held
        return before

    def _calls(self, text: str) -> list[ToolCall]:
        """None of them if one is no call of one of the functions."""
        read = self._notation.read(text, self._tools) or []
        found = [
            to_call(self.num_calls + i, call.name, call.arguments) if call.name in self._tools else None
            for i, call in enumerate(read)
        ]
        valid = [call for call in found if call is not None]
        return valid if len(valid) == len(found) else []

    def _num_clear(self) -> int:
        """How many of the held characters are no part of a call that may come."""
        if not self._notation.is_first:
            return num_clear(self._held, self._notation.open)
        if self._has_shown:
            return len(self._held)
        return 0 if self._notation.open.startswith(self._held.lstrip()) else len(self._held)


def read_call(place: int, name: str, arguments: str) -> ToolCall | None:
    """A call whose arguments the model wrote as JSON; None if they are no such."""
    try:
        return to_call(place, name, load_json(arguments))
    except ValueError:
        return None


def to_call(place: int, name: str, arguments: Any) -> ToolCall | None:
    """None if these are no arguments: an object, not nested too deep."""
    if not isinstance(arguments, dict) or not is_within(arguments, MAX_CALL_DEPTH):
        return None
    return ToolCall(place, f"call_{os.urandom(12).hex()}", name, _SEPARATED.encode(arguments))
