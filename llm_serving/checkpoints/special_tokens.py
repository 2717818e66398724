"""Finding special tokens in a rendered prompt, and keeping user text from being taken for them."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable
from itertools import groupby

from llm_serving.errors import CheckpointError

# Unicode's noncharacters: valid in strings, never part of any text's meaning, left alone by templates.
_MARKERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class SpecialTokens:
    """The strings that stand for one token in a prompt, and the marks that take this power from them.

    A guarded text holds a marker behind the first character of every special string, so that none is
    left whole, and behind its end where it ends with the beginning of one; its own markers are doubled.
    Trimming, splitting and joining guarded texts therefore gives guarded texts.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        """Raises: CheckpointError if no expression can be built from these strings."""
        self._sorted = sorted(set(strings) - {""})
        self._longest = max(map(len, self._sorted), default=0)
        used = set().union(*map(set, self._sorted)) if self._sorted else set()
        free = [marker for marker in _MARKERS if marker not in used]
        if not free:
            raise CheckpointError("The special tokens use every character that could mark user text.")
        mark = self._marker = free[0]
        self._marks = re.compile(f"{mark}({mark}?)")
        # A marked string of one character is still whole; what tells is the odd number of markers behind it.
        singles = "|".join(re.escape(string) for string in self._sorted if len(string) == 1) or "(?!)"
        try:
            longer = _alternatives([string for string in self._sorted if len(string) > 1]) or "(?!)"
            self._split = re.compile(f"({longer}|(?:{singles})(?!(?:{mark}{mark})*{mark}(?!{mark})))")
            self._starts = re.compile(f"(?={longer}|{singles})(.)", re.DOTALL)
        except (RecursionError, OverflowError, re.error) as error:
            raise CheckpointError(f"The special tokens are too long or too many: {error}.") from error

    def guard(self, text: str) -> str:
        """Return `text` such that `split` finds no special token in it and gives it back unchanged."""
        end = self._marker if self._ends_with_a_beginning(text) else ""
        if self._marker in text:
            text = text.replace(self._marker, self._marker * 2)
        return self._starts.sub(lambda match: match[1] + self._marker, text) + end

    def split(self, text: str) -> list[str]:
        """Cut into plain text and special strings in turn: plain ones at even places, unguarded."""
        parts = self._split.split(text)
        if self._marker in text:
            parts[::2] = [self._marks.sub(r"\1", part) for part in parts[::2]]
        return parts

    def _ends_with_a_beginning(self, text: str) -> bool:
        for length in range(1, min(self._longest, len(text) + 1)):
            tail = text[-length:]
            at = bisect_left(self._sorted, tail)
            if at < len(self._sorted) and self._sorted[at].startswith(tail):
                return True
        return False


def _alternatives(words: list[str]) -> str:
    """An expression for the longest of the sorted `words`; a tree, so that many cost no more than one."""
    if not words:
        return ""
    branches = []
    for _, group in groupby(filter(None, words), key=lambda word: word[0]):
        same = list(group)
        prefix = os.path.commonprefix(same)
        rest = [word[len(prefix) :] for word in same]
        branches.append(re.escape(prefix) + (_alternatives(rest) if rest != [""] else ""))
    return f"(?:{'|'.join(branches)})" + ("?" if "" in words else "")
