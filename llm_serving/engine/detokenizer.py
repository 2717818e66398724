"""Token ids to text that is safe to show: never half a character, never part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence


class StopMatcher:
    """Finds the first stop string to be complete, one character at a time (Aho and Corasick 1975).

    `depth` is the length of the longest tail of the text so far that may still become a stop string.
    Of several that are complete with the same character the longest counts. Linear in the text,
    whatever the number of stop strings; the result does not depend on how the text is cut.
    """

    __slots__ = ("_next", "_fail", "_depth", "_match", "_state")

    def __init__(self, stops: Iterable[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._depth = [0]
        self._match = [0]  # length of the longest stop string that ends in this state
        self._state = 0
        for stop in stops:
            state = 0
            for char in stop:
                if char not in self._next[state]:
                    self._next[state][char] = len(self._next)
                    self._next.append({})
                    self._fail.append(0)
                    self._depth.append(self._depth[state] + 1)
                    self._match.append(0)
                state = self._next[state][char]
            self._match[state] = self._depth[state]
        self._link()

    def _link(self) -> None:
        """Breadth first: `fail` is the state of the longest proper suffix that is also a prefix."""
        queue = list(self._next[0].values())
        for state in queue:
            for char, child in self._next[state].items():
                self._fail[child] = self._follow(self._fail[state], char)
                self._match[child] = self._match[child] or self._match[self._fail[child]]
                queue.append(child)

    def _follow(self, state: int, char: str) -> int:
        while state and char not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(char, 0)

    @property
    def depth(self) -> int:
        return self._depth[self._state]

    def feed(self, text: str) -> tuple[int, int] | None:
        """Read on; return (characters of `text` read, length of the stop string) once one is complete."""
        if self._state == 0 and self._next[0].keys().isdisjoint(text):
            return None
        for index, char in enumerate(text):
            self._state = self._follow(self._state, char)
            if self._match[self._state]:
                return index + 1, self._match[self._state]
        return None


class Detokenizer:
    """Incremental text of one sequence.

    Bytes are decoded as Python's incremental UTF-8 decoder with errors="replace" does. After a stop string
    `stopped` is true, `stop_string` is the one, and nothing more comes out. Stop strings do not count in
    `thoughts`; see `SamplingParams`.
    """

    __slots__ = ("_token_bytes", "_decoder", "_matcher", "_held", "_thoughts", "stopped", "stop_string")

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        stop: Iterable[str] = (),
        thoughts: tuple[str, str] | None = None,
    ) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        stops = [text for text in stop if text]
        self._matcher = StopMatcher(stops) if stops else None
        self._thoughts = _Thoughts(*thoughts) if thoughts and stops else None
        self._held = ""
        self.stopped = False
        self.stop_string: str | None = None

    def push(self, token_id: int) -> str:
        """Return the text that has become safe with this token; often empty."""
        if self.stopped:
            return ""
        return self._read(self._decoder.decode(self._token_bytes[token_id]))

    def flush(self) -> str:
        """The sequence is over: return everything held back, an unfinished character as U+FFFD."""
        if self.stopped:
            return ""
        text = self._read(self._decoder.decode(b"", final=True), is_last=True)
        if self.stopped:
            return text
        text += self._held
        self._held = ""
        return text

    def _read(self, new: str, *, is_last: bool = False) -> str:
        if self._thoughts is None:
            return self._release(new)
        thoughts, answer = self._thoughts.split(new, is_last=is_last)
        if self._thoughts.are_over:
            self._thoughts = None
        return thoughts + self._release(answer)

    def _release(self, new: str) -> str:
        matcher = self._matcher
        if matcher is None or not new:
            return new
        hit = matcher.feed(new)
        if hit is not None:
            num_read, length = hit
            self.stopped = True
            text = self._held + new[:num_read]
            self._held = ""
            self.stop_string = text[len(text) - length :]
            return text[: len(text) - length]
        text = self._held + new
        safe = len(text) - matcher.depth
        self._held = text[safe:]
        return text[:safe]


class _Thoughts:
    """Takes the thoughts off the front of a text that comes in pieces, and the blanks behind them."""

    __slots__ = ("_begin", "_end", "_seen", "_have_begun", "_have_ended", "are_over")

    def __init__(self, begin: str, end: str) -> None:
        self._begin = begin
        self._end = end
        self._seen = ""  # before they begin, all; then the last characters, in which their end may begin
        self._have_begun = self._have_ended = False
        self.are_over = False  # the answer has begun

    def split(self, new: str, *, is_last: bool) -> tuple[str, str]:
        """(thoughts, with what is around them; the answer behind them)."""
        if not self._have_begun:
            new = self._seen = self._seen + new
            front = new.lstrip()
            if not front.startswith(self._begin):
                self.are_over = is_last or not self._begin.startswith(front)
                return "", new if self.are_over else ""
            self._have_begun, self._seen = True, ""
        told = 0
        if not self._have_ended:
            text = self._seen + new
            at = text.find(self._end)
            if at < 0:
                self._seen = text[-len(self._end) + 1 :]
                return new, ""
            self._have_ended = True
            told = at + len(self._end) - len(self._seen)
        answer = new[told:].lstrip()
        self.are_over = bool(answer)
        return new[: len(new) - len(answer)], answer
