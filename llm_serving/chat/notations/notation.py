"""What there is to know of a notation of calls: how a family of models writes that it calls functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llm_serving.chat.tools import Calls, Tool


class Call(NamedTuple):
    """`arguments` are whatever the model wrote; a call has an object."""

    name: str
    arguments: Any


class Quote(NamedTuple):
    """What stands around a value in which nothing else counts.

    escapes: a backslash takes what follows. is_named: behind both stands the same name, and `>`.
    """

    begin: str
    end: str
    escapes: bool = False
    is_named: bool = False


JSON_QUOTES = (Quote('"', '"', escapes=True),)
Read = Callable[[str, Mapping[str, Tool]], list[Call] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMarks:
    """How calls are found in a text.

    open: what calls begin with. others: what they may begin with, too; none of all begins another.
    behind_name: what a function's name is followed by, which then stands behind `open`, and what is read
        begins with it.
    close: what they end with; without one they do where a bracket of `brackets` is closed.
    quotes: around values of arguments, in which neither counts.
    read: what stands between `open` and `close` → the calls, or None if these are none.
    begins: whether what stands behind `open` is the beginning of a call of one of these functions; None: it
        may become one. Without it, whatever does is read to its end.
    whole: what a call that was not closed ends with if nothing of it is missing; None: such a call is none.
    is_first: calls only begin an answer; a bracket may do so without `open`.
    """

    open: str
    read: Read
    others: tuple[str, ...] = ()
    behind_name: str = ""
    close: str = ""
    brackets: str = ""
    quotes: tuple[Quote, ...] = JSON_QUOTES
    begins: Callable[[str, Collection[str]], bool | None] | None = None
    whole: str | None = None
    is_first: bool = False

    def openings(self, names: Collection[str]) -> tuple[str, ...]:
        """All that calls of functions of these names may begin with."""
        if self.behind_name:
            return tuple(f"{self.open}{name}{self.behind_name}" for name in names)
        return (self.open, *self.others)


@dataclass(frozen=True, slots=True)
class Notation(CallMarks):
    """One notation.

    signs: what a template of it holds; see `teaching.py`.
    write: calls → all of their text, as in an answer.
    grammar: Lark for an answer with calls. It takes the tokens of `marks` that no text can be.
    marks: strings that may be special tokens.
    also: what its models write, too, where nothing binds them; read in what is no call of the notation's own.
    one_a_message, short_ids, id_of, text_is_thought: what templates want of the history; see `teaching.py`.
    """

    signs: tuple[str, ...]
    write: Callable[[Sequence[Call]], str]
    grammar: Callable[[Calls, Mapping[str, int]], str]
    marks: tuple[str, ...] = ()
    also: tuple[CallMarks, ...] = ()
    one_a_message: bool = False
    short_ids: bool = False
    id_of: Callable[[str, str], str] | None = None  # a function's name and a place → a call's id
    text_is_thought: bool = False


def first_of(marks: Collection[str]) -> re.Pattern[str]:
    """The first of `marks` in a text."""
    return re.compile("|".join(map(re.escape, marks)))
