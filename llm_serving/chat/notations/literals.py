"""Values that are almost JSON: Python's, and Gemma's with keys and quotes of its own."""

from __future__ import annotations

import re
from typing import Any

from llm_serving.chat.messages import MAX_CALL_DEPTH
from llm_serving.chat.notations.strict_json import load_json

_BLANK = re.compile(r"\s*")
_WORD = re.compile(r"[A-Za-z]+|[-+]?[0-9][0-9.eE+-]*")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_KEY = re.compile(r"[^\s:,{}\[\]\"'<>]+")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'|<\|"\|>(.*?)<\|"\|>', re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", **{c: c for c in "\\'\"/"}}


class Literals:
    """Reads values of `text` one after the other, from `at` on. All raise ValueError for what is none."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0

    def take(self, mark: str) -> bool:
        """Whether `mark` comes next, behind blanks; it is read then."""
        self._skip()
        found = self._text.startswith(mark, self.at)
        self.at += len(mark) if found else 0
        return found

    def need(self, mark: str) -> None:
        if not self.take(mark):
            raise ValueError(f"no {mark} at {self.at}")

    def match(self, pattern: re.Pattern[str]) -> str:
        self._skip()
        found = pattern.match(self._text, self.at)
        if found is None:
            raise ValueError(f"nothing at {self.at}")
        self.at = found.end()
        return found[0]

    @property
    def is_over(self) -> bool:
        self._skip()
        return self.at == len(self._text)

    def value(self, depth: int = MAX_CALL_DEPTH) -> Any:
        if depth < 0:
            raise ValueError("nested too deep")
        if self.take("{"):
            return self._object(depth)
        if self.take("["):
            return self._list(depth)
        if _STRING.match(self._text, self.at):
            return self._string()
        word = self.match(_WORD)
        return _WORDS[word] if word in _WORDS else load_json(word)

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.take("}"):
            if found:
                self.need(",")
            self._skip()
            key = self._string() if _STRING.match(self._text, self.at) else self.match(_KEY)
            self.need(":")
            found[key] = self.value(depth - 1)
        return found

    def _list(self, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self.take("]"):
            if found:
                self.need(",")
            found.append(self.value(depth - 1))
        return found

    def _string(self) -> str:
        found = _STRING.match(self._text, self.at)
        if found is None:
            raise ValueError(f"no string at {self.at}")
        self.at = found.end()
        if found[3] is not None:
            return found[3]
        text = _ESCAPE.sub(_unescaped, found[1] if found[1] is not None else found[2])
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _skip(self) -> None:
        self.at = self._match_end(_BLANK)

    def _match_end(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self.at)
        return found.end() if found else self.at


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, match[0])
