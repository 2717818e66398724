"""Finding special tokens in a rendered prompt, and keeping user text from being taken for them."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable
from itertools import groupby

from llm_serving.errors import CheckpointError

MAX_BRANCHES = 64  # how often special tokens may part from each other, one inside the other

# Unicode's noncharacters: valid in strings, never part of any text's meaning, left alone by templates.
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class SpecialTokens:
    """The strings that stand for one token in a prompt, and the marks that take this power from them.

    A guarded text holds a mark behind the first character of every special string, so that none is left
    whole, and inside what could become one together with a neighbour. Trimming, cutting and joining
    guarded texts therefore gives guarded texts. Strings of one character cannot be guarded and are no
    special tokens here.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        """Raises: CheckpointError if no expression can be built from these strings."""
        forward = sorted({string for string in strings if len(string) > 1})
        used = set().union(*forward) if forward else set()
        free = [character for character in _NONCHARACTERS if character not in used]
        if len(free) < 3:
            raise CheckpointError("The special tokens use every character that could mark user text.")
        self._mark, self._escape, self._escaped_mark = free[:3]
        # A mark of the text's own is spelled escape + escaped_mark, an escape twice.
        self._marks = re.compile(f"{self._mark}|{self._escape}([{self._escape}{self._escaped_mark}])")
        self._longest = max(map(len, forward), default=0)
        self._forward = forward
        self._backward = sorted(string[::-1] for string in forward)
        try:
            pattern = _alternatives(forward, MAX_BRANCHES) if forward else "(?!)"
            self._whole = re.compile(f"({pattern})")
            self._starts = re.compile(f"(?={pattern})")
        except (RecursionError, OverflowError, re.error) as error:
            raise CheckpointError(f"The special tokens are too long or too many: {error}.") from error

    def guard(self, text: str) -> str:
        """Return `text` such that `split` finds no special token in it and gives it back unchanged."""
        end = max(0, len(text) - self._longest)
        points = {match.start() + 1 for match in self._starts.finditer(text)}
        points.update(end + start + 1 for start in _beginnings(text[end:], self._forward))
        head = text[: self._longest]
        points.update(len(head) - 1 - start for start in _beginnings(head[::-1], self._backward))
        at = [0, *sorted(points), len(text)]
        return self._mark.join(self._escaped(text[i:j]) for i, j in zip(at, at[1:], strict=False))

    def split(self, text: str) -> list[str]:
        """Cut into plain text and special strings in turn: plain ones at even places, unguarded."""
        parts = self._whole.split(text)
        if self._mark in text or self._escape in text:
            parts[::2] = [self._marks.sub(self._own, part) for part in parts[::2]]
        return parts

    def _escaped(self, text: str) -> str:
        text = text.replace(self._escape, self._escape * 2)
        return text.replace(self._mark, self._escape + self._escaped_mark)

    def _own(self, match: re.Match[str]) -> str:
        if match[1] is None:
            return ""
        return self._escape if match[1] == self._escape else self._mark


def _beginnings(text: str, strings: list[str]) -> list[int]:
    """Where in `text` a stretch up to its end starts with which one of the sorted `strings` begins."""
    starts = []
    for start in range(len(text)):
        tail = text[start:]
        at = bisect_left(strings, tail)
        if at < len(strings) and strings[at].startswith(tail):
            starts.append(start)
    return starts


def _alternatives(words: list[str], depth: int) -> str:
    """An expression for the longest of the sorted `words`; a tree, so that many cost no more than one."""
    if not depth:
        raise RecursionError(f"they part more than {MAX_BRANCHES} times")
    branches = []
    for _, group in groupby(filter(None, words), key=lambda word: word[0]):
        same = list(group)
        prefix = os.path.commonprefix(same)
        rest = [word[len(prefix) :] for word in same]
        branches.append(re.escape(prefix) + (_alternatives(rest, depth - 1) if rest != [""] else ""))
    return f"(?:{'|'.join(branches)})" + ("?" if "" in words else "")
