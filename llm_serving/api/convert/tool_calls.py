"""Calls of functions in the text of an answer. What is no valid call stays text, never an error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_serving.api.convert.tags import num_clear
from llm_serving.chat.messages import MAX_CALL_DEPTH, is_within
from llm_serving.chat.notations.end_finder import EndFinder
from llm_serving.chat.notations.notation import CallMarks, first_of
from llm_serving.chat.notations.strict_json import load_json
from llm_serving.chat.tools import Tool

_PIECE = 512  # characters that are read at once
# Of what is no call: as many times the answer may be read again, or so many characters.
_MOST_AGAIN, _LEAST_AGAIN = 8, 1 << 16
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
    What is no call is read again from the next mark in it, which makes at most a multiple of the answer.
    """

    def __init__(self, tools: Mapping[str, Tool], notation: CallMarks, *, many: bool) -> None:
        self._tools = tools
        self._notation = notation
        self._marks = notation.openings(tools)
        self._opening = first_of(self._marks)
        self._many = many
        self._blanks: list[str] = []  # behind what was shown, or before the call at hand, with its mark
        self._held = ""  # behind these: what may be part of a mark
        self._call: list[str] = []  # the call at hand
        self._end: EndFinder | None = None  # of it
        self._has_begun = False  # as a call does
        self._has_shown = False
        self._is_behind_call = False  # and nothing but blanks came since
        self._place = 0  # characters of the answer that were read
        self._num_again = 0  # characters that were read once more
        self.num_calls = 0

    def feed(self, text: str, *, is_last: bool = False) -> tuple[str, list[ToolCall]]:
        """(text to show, calls that are complete now). Behind the last text nothing is held back."""
        shown: list[str] = []
        calls: list[ToolCall] = []
        self._read(text, shown, calls)
        while is_last and self._end is not None:
            call = "".join(self._call)
            self._read(self._finish(call, self._is_whole(call), shown, calls), shown, calls)
        if is_last:
            self._show(self._held, shown)
            self._held = ""
            if not self._is_behind_call:
                shown += self._blanks
        return "".join(shown), calls

    def _read(self, text: str, shown: list[str], calls: list[ToolCall]) -> None:
        """In pieces, so that what is behind a call is not copied for each of thousands."""
        ahead = _pieces(text)
        while ahead:
            piece = ahead.pop()
            if self._end is None:
                ahead += _pieces(self._outside(piece, shown))
                continue
            self._call.append(piece)
            self._place += len(piece)
            if not self._begins():
                ahead += _pieces(self._finish("".join(self._call), False, shown, calls))
                continue
            end = self._end.feed(piece)
            if end < 0:
                continue
            call = "".join(self._call)
            self._place -= len(call) - end
            ahead += _pieces(call[end:])
            ahead += _pieces(self._finish(call[:end], True, shown, calls))

    def _outside(self, text: str, shown: list[str]) -> str:
        """Text up to the next call; gives what is in that."""
        self._place += len(text)
        text = self._held + text
        if self._notation.is_first:
            begin, mark = self._first(text)
        else:
            match = self._opening.search(text)
            begin, mark = (match.start(), match[0]) if match else (-1, "")
        if begin < 0:
            clear = self._num_clear(text)
            self._held = text[clear:]
            self._show(text[:clear], shown)
            return ""
        self._show(text[:begin], shown)
        self._held = ""
        mark = self._notation.open if self._notation.behind_name else mark
        self._blanks.append(mark)
        self._end, self._call, self._has_begun = EndFinder(self._notation), [], False
        inside = text[begin + len(mark) :]
        self._place -= len(inside)
        return inside

    def _begins(self) -> bool:
        """Whether the call at hand is one so far."""
        begins = self._notation.begins
        if self._has_begun or begins is None:
            return True
        found = begins("".join(self._call), self._tools)
        self._has_begun = found is True
        return found is not False

    def _first(self, text: str) -> tuple[int, str]:
        """Where a call begins an answer, and with which mark, if any; (-1, "") if it does not."""
        front = text.lstrip()
        if self._has_shown or not front.startswith((self._notation.open, self._notation.brackets[0])):
            return -1, ""
        mark = self._notation.open if front.startswith(self._notation.open) else ""
        return len(text) - len(front), mark

    def _show(self, text: str, shown: list[str]) -> None:
        """All but the blanks it ends with."""
        told = text.rstrip()
        if told:
            shown += [*self._blanks, told]
            self._blanks = []
            self._has_shown, self._is_behind_call = True, False
        self._blanks.append(text[len(told) :])

    def _is_whole(self, text: str) -> bool:
        """Whether nothing is missing of a call whose end did not come."""
        whole = self._notation.whole
        return whole is not None and text.rstrip().endswith(whole)

    def _finish(self, text: str, is_whole: bool, shown: list[str], calls: list[ToolCall]) -> str:
        """The call at hand, as calls or as text; gives what is to be read again."""
        self._end, self._call = None, []
        found = self._calls(text.removesuffix(self._notation.close)) if is_whole else []
        calls += found[: None if self._many else max(0, 1 - self.num_calls)]
        self.num_calls += len(found)
        if found:
            self._blanks, self._is_behind_call = [], True
            return ""
        again = self._opening.search(text)
        begin = again.start() if again else self._num_clear(text)
        num_again = len(text) - begin
        most = max(_LEAST_AGAIN, _MOST_AGAIN * self._place)
        if self._notation.is_first or self._num_again + num_again > most:
            begin, num_again = len(text), 0
        self._num_again += num_again
        self._place -= num_again
        mark = self._blanks.pop()
        self._show(mark + text[:begin], shown)
        return text[begin:]

    def _calls(self, text: str) -> list[ToolCall]:
        """None of them if one is no call of one of the functions."""
        read = self._notation.read(text, self._tools) or []
        found = [
            to_call(self.num_calls + i, call.name, call.arguments) if call.name in self._tools else None
            for i, call in enumerate(read)
        ]
        valid = [call for call in found if call is not None]
        return valid if len(valid) == len(found) else []

    def _num_clear(self, text: str) -> int:
        """How many characters of a text without a call are no part of one that may come."""
        if not self._notation.is_first:
            return min(num_clear(text, mark) for mark in self._marks)
        front = text.lstrip()
        may_come = not self._has_shown and self._notation.open.startswith(front)
        return len(text) - len(front) if may_come else len(text)


class CallReaders:
    """Several one behind the other: what the one shows the next reads, with marks of its own."""

    def __init__(self, tools: Mapping[str, Tool], marks: Sequence[CallMarks], *, many: bool) -> None:
        self._readers = [CallReader(tools, each, many=many) for each in marks]
        self._many = many
        self.num_calls = 0

    def feed(self, text: str, *, is_last: bool = False) -> tuple[str, list[ToolCall]]:
        """As `CallReader.feed`."""
        found: list[ToolCall] = []
        for reader in self._readers:
            text, calls = reader.feed(text, is_last=is_last)
            found += [call._replace(place=self.num_calls + i) for i, call in enumerate(calls, len(found))]
        calls = found[: None if self._many else max(0, 1 - self.num_calls)]
        self.num_calls += len(found)
        return text, calls


def _pieces(text: str) -> list[str]:
    """The last first."""
    return [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)][::-1]


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
