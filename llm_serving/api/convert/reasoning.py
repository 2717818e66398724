"""Thoughts in the text of an answer, told apart from it."""

from __future__ import annotations

from enum import Enum

from llm_serving.api.convert.tags import num_clear
from llm_serving.chat.reasoning import Reasoning, ThoughtFormat


class _State(Enum):
    BEGIN = 0  # thoughts may come, or the answer
    OPENED = 1  # nothing of the thoughts came yet
    THINKING = 2
    BEHIND = 3  # nothing of the answer came yet
    ANSWER = 4


class ReasoningReader:
    """Takes one choice's text as it comes; gives thoughts, and text of the answer.

    Blanks at both ends of thoughts, and before the answer behind them, are nobody's. Thoughts stand in front
    only: what looks like them further on is text.
    """

    def __init__(self, thoughts: ThoughtFormat, reasoning: Reasoning) -> None:
        self._open, self._close = thoughts.open, thoughts.close
        self._held = ""  # not decided yet
        self._state = _State.ANSWER if reasoning is Reasoning.NONE else _State.BEGIN
        self._is_open = reasoning is Reasoning.IS_OPEN

    @property
    def is_thinking(self) -> bool:
        return self._state in (_State.OPENED, _State.THINKING)

    def feed(self, text: str, *, is_last: bool = False) -> tuple[str, str]:
        """(thoughts, text of the answer). Behind the last text nothing is held back."""
        if self._state is _State.ANSWER:
            return "", text
        self._held += text
        if self._state is _State.BEGIN:
            self._begin(is_last)
        thoughts = self._think(is_last) if self.is_thinking else ""
        if self._state in (_State.BEGIN, _State.OPENED, _State.THINKING):
            return thoughts, ""
        text, self._held = self._held, ""
        if self._state is _State.BEHIND:
            text = text.lstrip()
        if text:
            self._state = _State.ANSWER
        return thoughts, text

    def _begin(self, is_last: bool) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self._open):
            self._state, self._held = _State.OPENED, begun[len(self._open) :]
        elif not self._is_open and begun.startswith(self._close):  # none, as MiniMax M3 says it
            self._state, self._held = _State.BEHIND, begun[len(self._close) :]
        elif is_last or not any(tag.startswith(begun) for tag in (self._open, self._close)):
            self._state = _State.OPENED if self._is_open else _State.ANSWER

    def _think(self, is_last: bool) -> str:
        if self._state is _State.OPENED:
            self._held = self._held.lstrip()
            if self._held:
                self._state = _State.THINKING
        thoughts, close, answer = self._held.partition(self._close)
        if close:
            self._state, self._held = _State.BEHIND, answer
            return thoughts.rstrip()
        free = (thoughts if is_last else thoughts[: num_clear(thoughts, self._close)]).rstrip()
        self._held = "" if is_last else thoughts[len(free) :]
        return free
