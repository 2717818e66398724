"""Tags in the text of an answer, told apart: thoughts in front, calls, and what stands around the rest."""

from __future__ import annotations

from llm_serving.api.convert.framed import Unframer
from llm_serving.api.convert.reasoning import ReasoningReader
from llm_serving.api.convert.tags import num_clear
from llm_serving.api.convert.tool_calls import CallReaders, ToolCall


class TaggedReader:
    """Takes one choice's text as it comes; gives thoughts, text of the answer, and calls."""

    def __init__(
        self,
        thoughts: ReasoningReader | None,
        around: tuple[str, str] | None,
        calls: CallReaders | None,
        unframer: Unframer | None = None,
    ) -> None:
        self._thoughts = thoughts
        self._unwrapper = Unwrapper(*around) if around else None
        self._unframer = unframer
        self._calls = calls

    @property
    def is_thinking(self) -> bool:
        return self._thoughts is not None and self._thoughts.is_thinking

    @property
    def num_calls(self) -> int:
        return self._calls.num_calls if self._calls is not None else 0

    def feed(self, text: str, *, is_last: bool = False) -> tuple[str, str, list[ToolCall]]:
        """(thoughts, text to show, whole calls). Behind the last text nothing is held back."""
        thoughts, calls = "", list[ToolCall]()
        if self._thoughts is not None:
            thoughts, text = self._thoughts.feed(text, is_last=is_last)
        if self._unwrapper is not None:
            text = self._unwrapper.feed(text, is_last=is_last)
        if self._unframer is not None:
            text = self._unframer.begin(text, is_last=is_last)
        if self._calls is not None:
            text, calls = self._calls.feed(text, is_last=is_last)
        if self._unframer is not None:
            text = self._unframer.drop(text, is_last=is_last)
        return thoughts, text, calls


class Unwrapper:
    """Takes off what stands around a text that comes in pieces, if it does, and the blanks inside."""

    def __init__(self, begin: str, end: str) -> None:
        self._begin = begin
        self._end = end
        self._held = ""  # not decided yet
        self._has_begun = False
        self._is_plain = False
        self._has_told = False

    def feed(self, text: str, *, is_last: bool = False) -> str:
        """What is clear now. Behind the last text nothing is held back."""
        if self._is_plain:
            return text
        self._held += text
        if not self._has_begun:
            front = self._held.lstrip()
            if not front.startswith(self._begin):
                if not is_last and self._begin.startswith(front):
                    return ""
                self._is_plain = True
                return self._held
            self._has_begun, self._held = True, front[len(self._begin) :]
        if not self._has_told:
            self._held = self._held.lstrip()
        inside, end, behind = self._held.rpartition(self._end)
        if not end or behind.strip():  # an end counts where nothing follows
            inside = self._held if is_last else self._held[: num_clear(self._held, self._end)]
        free = inside.rstrip()
        self._held = "" if is_last else self._held[len(free) :]
        self._has_told = self._has_told or bool(free)
        return free
