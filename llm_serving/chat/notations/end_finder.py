"""Where calls end in text that comes in pieces, in time linear in it."""

from __future__ import annotations

import re

from llm_serving.chat.notations.notation import CallMarks, Quote

_MOST_NAME = 64  # characters


class EndFinder:
    """Of one call, or list of calls. What stands in quotes ends nothing."""

    def __init__(self, notation: CallMarks) -> None:
        self._close = notation.close
        self._quotes = {quote.begin: quote for quote in notation.quotes if not quote.is_named}
        self._opening = notation.brackets[::2]
        marks = [*filter(None, [self._close]), *self._quotes, *notation.brackets]
        self._named = next((quote for quote in notation.quotes if quote.is_named), None)
        patterns = [re.escape(mark) for mark in marks]
        self._longest = max(map(len, marks))
        if self._named is not None:
            patterns.insert(0, rf"{re.escape(self._named.begin)}(?P<name>[^<>/\s]{{1,{_MOST_NAME}}})>")
            self._longest += _MOST_NAME + 1
        self._outside = re.compile("|".join(patterns))
        self._quote: Quote | None = None
        # Of brackets that the opening mark itself leaves open, as in `functools[`.
        self._depth = sum(
            (mark in self._opening) - (mark in notation.brackets[1::2]) for mark in notation.open
        )
        self._window = ""  # what came and is not decided yet
        self._before = 0  # characters before it
        self._at = 0  # in it

    def feed(self, text: str) -> int:
        """Where in all that was fed, `text` last, the end is over; -1 if it has not come."""
        self._window = self._window[self._at :] + text
        self._before += self._at
        self._at = 0
        return self._before + self._at if self._find() else -1

    def _find(self) -> bool:
        while True:
            if self._quote is not None:
                if not self._leave(self._quote):
                    return False
                continue
            match = self._outside.search(self._window, self._at)
            if match is None:
                self._at = max(self._at, len(self._window) - self._longest + 1)
                return False
            mark, self._at = match[0], match.end()
            if self._named is not None and match["name"]:
                self._quote = Quote(mark, f"{self._named.end}{match['name']}>")
            elif mark in self._quotes:
                self._quote = self._quotes[mark]
            elif mark == self._close:
                return True
            else:
                self._depth += 1 if mark in self._opening else -1
                if self._depth <= 0:
                    return True

    def _leave(self, quote: Quote) -> bool:
        text = self._window
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
