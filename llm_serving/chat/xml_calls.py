"""Calls as Qwen3-Coder and Qwen3.5 have learnt to write them: a tag for the function, one for each argument.

They are told of functions in words, and asked for JSON; what a model has learnt it may write all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llm_serving.chat.tools import Tool

_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_WORDS = {"True": True, "False": False, "None": None}  # as templates write a history's values


def read_xml_call(text: str, tools: Mapping[str, Tool]) -> tuple[str, dict[str, Any]] | None:
    """(function, arguments) of what stands between the tags of a call; None if it is no such call.

    Values are texts; those that the function's schema does not want as texts are JSON, if they can be.
    """
    text = text.strip()
    if not text.startswith(_FUNCTION):
        return None
    name, named_end, inside = text[len(_FUNCTION) :].partition(">")
    if not named_end or name not in tools:
        return None
    inside = inside.removesuffix(_FUNCTION_END)
    schemas: Any = tools[name].parameters.get("properties")
    arguments: dict[str, Any] = {}
    at = 0
    while (begin := inside.find(_PARAMETER, at)) >= 0:
        named = inside.find(">", begin)
        end = inside.find(_PARAMETER_END, named)
        if named < 0 or end < 0 or inside[at:begin].strip():
            return None
        key = inside[begin + len(_PARAMETER) : named]
        value = inside[named + 1 : end].removeprefix("\n").removesuffix("\n")
        arguments[key] = _value(value, schemas.get(key) if isinstance(schemas, Mapping) else None)
        at = end + len(_PARAMETER_END)
    return None if inside[at:].strip() else (name, arguments)


def _value(text: str, schema: Any) -> Any:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return text
    if text in _WORDS:
        return _WORDS[text]
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
