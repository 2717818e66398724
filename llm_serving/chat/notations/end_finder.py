"""Where calls end in text that comes in pieces, in time linear in it."""

from __future__ import annotations

import re

from llm_serving.chat.notations.notation import Notation, Quote


class EndFinder:
    """Of one call, or list of calls. What stands in quotes ends nothing."""

    def __init__(self, notation: Notation) -> None:
        self._close = notation.close
        self._quotes = {quote.begin: quote for quote in notation.quotes}
        self._opening = notation.brackets[::2]
        marks = [*filter(None, [self._close]), *self._quotes, *notation.brackets]
        self._outside = re.compile("|".join(map(re.escape, marks)))
        self._longest = max(map(len, marks))
        self._at = 0
        self._quote: Quote | None = None
        self._depth = 0

    def find(self, text: str) -> int:
        """Where in `text`, which only grows from call to call, the end is over; -1 if it has not come."""
        while True:
            if self._quote is not None:
                if not self._leave(self._quote, text):
                    return -1
                continue
            match = self._outside.search(text, self._at)
            if match is None:
                self._at = max(self._at, len(text) - self._longest + 1)
                return -1
            mark, self._at = match[0], match.end()
            if mark in self._quotes:
                self._quote = self._quotes[mark]
            elif mark == self._close:
                return self._at
            else:
                self._depth += 1 if mark in self._opening else -1
                if self._depth <= 0:
                    return self._at

    def _leave(self, quote: Quote, text: str) -> bool:
        if not quote.escapes:
            end = text.find(quote.end, self._at)
            self._at = max(self._at, len(text) - len(quote.end) + 1) if end < 0 else end + len(quote.end)
            if end >= 0:
                self._quote = None
            return end >= 0
        while match := re.compile(r"\\.|" + re.escape(quote.end), re.DOTALL).search(text, self._at):
            self._at = match.end()
            if match[0] == quote.end:
                self._quote = None
                return True
        self._at = max(self._at, len(text) - 1 if text.endswith("\\") else len(text))
        return False
