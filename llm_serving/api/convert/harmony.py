"""Messages of an answer in harmony, told apart: thoughts, text, calls. See `chat/harmony.py`."""

from __future__ import annotations

from collections.abc import Collection

from llm_serving.api.convert.tags import num_clear
from llm_serving.api.convert.tool_calls import ToolCall, read_call
from llm_serving.chat.harmony import CHANNEL, END, MESSAGE, START, Header, read_header

_ENDS = (END, START, CHANNEL)  # of a message's text: its own, or the header of the next
_BEGINNINGS = (START, CHANNEL, MESSAGE, "to=")  # of a header
_NO_HEADER = Header("final", None)


class HarmonyReader:
    """Takes one choice's text as it comes; gives thoughts, text of the answer, and calls.

    What is no message is text, and what is no valid call of a function too. Texts of several messages are
    paragraphs.
    """

    def __init__(self, names: Collection[str], *, many: bool) -> None:
        self._names = names
        self._many = many
        self._held = ""  # not decided yet
        self._header: Header | None = None  # of the message at hand
        self._is_begun = False  # something was told of it
        self._thoughts: list[str] = []  # of this text, as the following
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._has_told = {True: False, False: False}  # thoughts, text
        self.num_calls = 0

    @property
    def is_thinking(self) -> bool:
        return self._header is not None and self._header.channel == "analysis"

    def feed(self, text: str, *, is_last: bool = False) -> tuple[str, str, list[ToolCall]]:
        """(thoughts, text to show, whole calls). Behind the last text nothing is held back."""
        self._thoughts, self._text, self._calls = [], [], []
        self._held += text
        while self._read_header(is_last) if self._header is None else self._read_message(is_last):
            pass
        return "".join(self._thoughts), "".join(self._text), self._calls

    def _read_header(self, is_last: bool) -> bool:
        """Whether a message has begun."""
        front = self._held.lstrip()
        if not front.startswith(_BEGINNINGS):
            if not front or (not is_last and any(mark.startswith(front) for mark in _BEGINNINGS)):
                return False
            self._header = _NO_HEADER
            return True
        header, mark, behind = front.partition(MESSAGE)
        if not mark:
            return False
        self._header, self._held = read_header(header), behind
        return True

    def _read_message(self, is_last: bool) -> bool:
        """Whether it is over, and another may follow."""
        header, held = self._header or _NO_HEADER, self._held
        found = [at for mark in _ENDS if (at := held.find(mark)) >= 0]
        end = min(found, default=len(held))
        if header.function is not None:
            if not found and not is_last:
                return False
            self._call(header.function, held[:end])
        else:
            if not found and not is_last:
                end = min(num_clear(held, mark) for mark in _ENDS)
            self._tell(held[:end], is_thought=self.is_thinking)
        self._held = held[end:].removeprefix(END)
        if found:
            self._header, self._is_begun = None, False
        return bool(found)

    def _tell(self, text: str, *, is_thought: bool) -> None:
        if not text:
            return
        out = self._thoughts if is_thought else self._text
        if self._has_told[is_thought] and not self._is_begun:
            out.append("\n\n")
        out.append(text)
        self._is_begun = self._has_told[is_thought] = True

    def _call(self, name: str, arguments: str) -> None:
        call = read_call(self.num_calls, name, arguments) if name in self._names else None
        if call is None:
            self._tell(arguments, is_thought=False)
            return
        if self._many or call.place == 0:
            self._calls.append(call)
        self.num_calls += 1
