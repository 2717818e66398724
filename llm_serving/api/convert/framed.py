"""Headers and ends of messages in the text of an answer, taken out."""

from __future__ import annotations

import re

from llm_serving.api.convert.tags import num_clear
from llm_serving.chat.frames import Frames
from llm_serving.chat.notations.notation import first_of


class Unframer:
    """Takes one choice's text as it comes, behind its thoughts; gives what is text or calls of it."""

    def __init__(self, frames: Frames, *, continues: bool) -> None:
        """`continues`: the prompt ends within a text."""
        self._frames = frames
        self._dropped = first_of(frames.dropped)
        self._held = ""  # not decided yet
        self._is_decided = continues or not frames.begun  # whether the answer begins with a header

    def feed(self, text: str, *, is_last: bool = False) -> str:
        """What is clear now. Behind the last text nothing is held back."""
        self._held += text
        if not self._is_decided and not self._begin(is_last):
            return ""
        shown, at = [], 0
        for match in self._dropped.finditer(self._held):
            shown.append(self._held[at : match.start()])
            at = match.end()
        rest = self._held[at:]
        clear = len(rest) if is_last else min(num_clear(rest, mark) for mark in self._frames.dropped)
        self._held = rest[clear:]
        return "".join([*shown, rest[:clear]])

    def _begin(self, is_last: bool) -> bool:
        """Whether it is decided if a header is gone on with."""
        frames = self._frames
        if re.match(frames.header, self._held):
            self._held = frames.begun + self._held
        elif not is_last and re.fullmatch(frames.partial, self._held):
            return False
        self._is_decided = True
        return True
