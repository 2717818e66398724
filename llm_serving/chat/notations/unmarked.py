"""Calls that are JSON without a notation's marks: in a fence as code is, in other tags, or the whole answer.

Models of code write them, whatever marks their template shows (Qwen 2.5 Coder). Only what begins with the
name of a function that may be called is held back, and read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from llm_serving.chat.notations.json_calls import json_at
from llm_serving.chat.notations.notation import Call, CallMarks
from llm_serving.chat.tools import Tool

_LANGUAGES = ("json", "tool_call", "tool_code")  # behind a fence, if any is
_ARGUMENTS = ("arguments", "parameters")
_MOST_FRONT = 256  # characters up to the end of the function's name, blanks included


def _begins(text: str, names: Collection[str], *, mark: str = "") -> bool | None:
    """Whether an object, or a list of such, begins with `"name"` and one of the names; None: it may yet."""
    front = (mark + text)[:_MOST_FRONT]
    may_go_on = None if len(front) < _MOST_FRONT else False
    language, front = _apart(front)
    if language not in ("", *_LANGUAGES):
        return may_go_on if not front and any(each.startswith(language) for each in _LANGUAGES) else False
    front = _undoubled(front.removeprefix("[").lstrip())
    for part in ("{", '"name"', ":", '"'):
        front = front.lstrip()
        if not front.startswith(part):
            return may_go_on if part.startswith(front) else False
        front = front[len(part) :]
    name, end, _ = front.partition('"')
    if end:
        return name in names
    return may_go_on if any(known.startswith(name) for known in names) else False


def read_unmarked(text: str, tools: Mapping[str, Tool], *, mark: str = "") -> list[Call] | None:
    """Objects one after the other, or lists of them; each has a name, arguments, and nothing else."""
    rest = _apart(mark + text)[1]
    calls: list[Call | None] = []
    while rest:
        inner = _undoubled(rest)
        found = json_at(inner, 0)
        if found is None:
            return None
        value, end = found
        calls += [_call(each) for each in (value if isinstance(value, list) else [value])]
        rest = inner[end:].removeprefix("}" if len(inner) < len(rest) else "").lstrip()
    known = [call for call in calls if call is not None]
    return known if len(known) == len(calls) else None


def _apart(text: str) -> tuple[str, str]:
    """(the language before it, if any; the rest) without the blanks around these."""
    text = text.lstrip()
    language = "".join(re.findall(r"\A\w+", text))
    return language, text[len(language) :].lstrip()


def _undoubled(text: str) -> str:
    """Qwen 2.5's templates tell of calls in `{{` and `}}`, and so it writes some."""
    return text[1:] if text.startswith("{{") else text


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict) or len(value) != 2 or not isinstance(value.get("name"), str):
        return None
    arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
    return Call(value["name"], arguments) if isinstance(arguments, dict) else None


def _between(mark: str, close: str) -> CallMarks:
    return CallMarks(open=mark, close=close, read=read_unmarked, begins=_begins, whole="}")


FENCED = (_between("```", "```"), _between("<tools>", "</tools>"))
BARE = CallMarks(
    open="{",
    brackets="{}",
    read=partial(read_unmarked, mark="{"),
    begins=partial(_begins, mark="{"),
    whole="}",  # of what is doubled in front only
    is_first=True,
)
