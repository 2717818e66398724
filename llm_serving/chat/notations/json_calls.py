"""Calls that are JSON whole, name and arguments: what most notations have between their marks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llm_serving.chat.notations.lark import moved
from llm_serving.chat.notations.notation import Call
from llm_serving.chat.notations.schemas import load_json
from llm_serving.chat.tools import JSON_STYLE, Tool

_DECODER = json.JSONDecoder()


def read_json(text: str, arguments: str = "arguments") -> list[Call] | None:
    """Calls that are an object each, or a list of such; their arguments are under the name `arguments`."""
    try:
        found = load_json(text)
    except ValueError:
        return None
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return None
    return [Call(call["name"], call.get(arguments, {})) for call in calls]


def json_at(text: str, at: int) -> tuple[Any, int] | None:
    """The value that begins in `text` at `at`, and where it ends; None if there is none."""
    try:
        end = _DECODER.raw_decode(text, at)[1]
        return load_json(text[at:end]), end
    except (ValueError, RecursionError):
        return None


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def json_call(call: Call, arguments: str = "arguments") -> str:
    return json_text({"name": call.name, arguments: call.arguments})


def json_body(tools: Sequence[Tool], arguments: str = "arguments") -> str:
    """Lark: one call as an object, with arguments that fit its function's schema."""
    schemas = {str(i): moved(dict(tool.parameters), f"#/$defs/{i}") for i, tool in enumerate(tools)}
    bodies = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, arguments: {"$ref": f"#/$defs/{i}"}},
            "required": ["name", arguments],
            "additionalProperties": False,
        }
        for i, tool in enumerate(tools)
    ]
    return f"%json {json.dumps({'anyOf': bodies, '$defs': schemas, 'x-guidance': JSON_STYLE})}"
