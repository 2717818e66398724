"""Calls that are JSON whole, name and arguments: what most notations have between their marks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from llm_serving.chat.notations.lark import moved
from llm_serving.chat.notations.notation import Call
from llm_serving.chat.notations.schemas import Schema
from llm_serving.chat.notations.strict_json import load_json
from llm_serving.chat.tools import JSON_STYLE, Tool

_DECODER = json.JSONDecoder()
_PLACE = {"type": "string", "pattern": "^[0-9]{1,3}$"}


class Shape(NamedTuple):
    """What the fields of a call are called. Without a `name`, its one key is the function's name."""

    arguments: str = "arguments"
    name: str = "name"
    place: str = ""  # in front, if there is such a field: the call's number in the list, a text


PLAIN = Shape()


def read_json(text: str, shape: Shape = PLAIN) -> list[Call] | None:
    """Calls that are an object each, or a list of such."""
    try:
        found = load_json(text)
    except ValueError:
        return None
    calls = [_call(each, shape) for each in (found if isinstance(found, list) else [found])]
    known = [call for call in calls if call is not None]
    return known if known and len(known) == len(calls) else None


def _call(value: Any, shape: Shape) -> Call | None:
    if not isinstance(value, dict):
        return None
    if not shape.name:
        return Call(*next(iter(value.items()))) if len(value) == 1 else None
    name = value.get(shape.name)
    return Call(name, value.get(shape.arguments, {})) if isinstance(name, str) else None


def json_at(text: str, at: int) -> tuple[Any, int] | None:
    """The value that begins in `text` at `at`, and where it ends; None if there is none."""
    try:
        end = _DECODER.raw_decode(text, at)[1]
        return load_json(text[at:end]), end
    except (ValueError, RecursionError):
        return None


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def json_call(call: Call, shape: Shape = PLAIN, place: int = 0) -> str:
    if not shape.name:
        return json_text({call.name: call.arguments})
    front = {shape.place: str(place)} if shape.place else {}
    return json_text({**front, shape.name: call.name, shape.arguments: call.arguments})


def json_body(tools: Sequence[Tool], shape: Shape = PLAIN) -> str:
    """Lark: one call as an object, with arguments that fit its function's schema."""
    schemas = {str(i): moved(dict(tool.parameters), f"#/$defs/{i}") for i, tool in enumerate(tools)}
    bodies = [_schema(tool.name, {"$ref": f"#/$defs/{i}"}, shape) for i, tool in enumerate(tools)]
    return f"%json {json.dumps({'anyOf': bodies, '$defs': schemas, 'x-guidance': JSON_STYLE})}"


def _schema(name: str, arguments: Schema, shape: Shape) -> Schema:
    fields: dict[str, Any] = {name: arguments}
    if shape.name:
        front = {shape.place: _PLACE} if shape.place else {}
        fields = {**front, shape.name: {"const": name}, shape.arguments: arguments}
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
