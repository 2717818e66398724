"""Calls that are JSON without a notation's marks: in a fence as code is, in other tags, or the whole answer.

Small models write them whatever their template shows, and models of code do (Qwen 2.5 Coder). Of each,
only what begins with the name of a function that may be called is held back, and read.
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
    language = _language(front)
    front = front[len(language) :]
    if language not in ("", *_LANGUAGES):
        return may_go_on if not front and any(each.startswith(language) for each in _LANGUAGES) else False
    front = front.lstrip().removeprefix("[")
    for part in ("{", '"name"', ":", '"'):
        front = front.lstrip()
        if not front.startswith(part):
            return may_go_on if part.startswith(front) else False
        front = front[len(part) :]
    name, end, _ = front.partition('"')
    if end:
        return name in names
    return may_go_on if any(known.startswith(name) for known in names) else False


def _read(text: str, tools: Mapping[str, Tool], *, mark: str = "") -> list[Call] | None:
    """Objects one after the other, or lists of them; each has a name, arguments, and nothing else."""
    rest = mark + text
    rest = rest.removeprefix(_language(rest)).strip()
    calls: list[Call | None] = []
    while rest:
        found = json_at(rest, 0)
        if found is None:
            return None
        value, end = found
        calls += [_call(each) for each in (value if isinstance(value, list) else [value])]
        rest = rest[end:].lstrip()
    known = [call for call in calls if call is not None]
    return known if len(known) == len(calls) else None


def _language(text: str) -> str:
    return "".join(re.findall(r"\A\w+", text))


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict) or len(value) != 2 or not isinstance(value.get("name"), str):
        return None
    arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
    return Call(value["name"], arguments) if isinstance(arguments, dict) else None


def _between(mark: str, close: str) -> CallMarks:
    return CallMarks(open=mark, close=close, read=_read, begins=_begins, whole="}")


FENCED = (_between("```", "```"), _between("<tools>", "</tools>"))
BARE = CallMarks(
    open="{", brackets="{}", read=partial(_read, mark="{"), begins=partial(_begins, mark="{"), is_first=True
)
