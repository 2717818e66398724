"""Headers and ends of messages in the text of an answer, taken out."""

from __future__ import annotations

import re

from llm_serving.api.convert.tags import num_clear
from llm_serving.chat.frames import Frames
from llm_serving.chat.notations.notation import first_of


class Unframer:
    """Takes one choice's text as it comes, behind thoughts: `begin` before calls are read, then `drop`."""

    def __init__(self, frames: Frames, *, continues: bool) -> None:
        """`continues`: the prompt ends within a text."""
        self._frames = frames
        self._dropped = first_of(frames.dropped)
        self._begun = ""  # of the answer, not decided yet
        self._is_decided = continues or not frames.begun  # whether it begins with a header
        self._held = ""  # of the text to show

    def begin(self, text: str, *, is_last: bool = False) -> str:
        """The text with what the prompt has of its first header, if it goes on with one."""
        if self._is_decided:
            return text
        frames = self._frames
        self._begun += text
        is_header = re.match(frames.header, self._begun) is not None
        if not (is_header or is_last) and re.fullmatch(frames.partial, self._begun):
            return ""
        self._is_decided = True
        return f"{frames.begun}{self._begun}" if is_header else self._begun

    def drop(self, text: str, *, is_last: bool = False) -> str:
        """What is clear of the text to show. Behind the last text nothing is held back."""
        shown, at = [], 0
        text = self._held + text
        for match in self._dropped.finditer(text):
            shown.append(text[at : match.start()])
            at = match.end()
        rest = text[at:]
        clear = min(num_clear(rest, mark) for mark in self._frames.dropped)
        self._held = rest[clear:]
        shown.append(rest[:clear])
        if is_last and self._held not in {mark.rstrip() for mark in self._frames.dropped}:
            shown.append(self._held)  # else blanks before a call were nobody's
        return "".join(shown)
