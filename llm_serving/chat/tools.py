"""Functions that a model may call, as requests have them. How models write calls: `chat/notations/`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_serving.chat.messages import is_within
from llm_serving.errors import InvalidRequest

MAX_TOOLS = 128
MAX_DEPTH = 64  # of a schema
# How bound answers write JSON: as `json.dumps` does. Small models write blanks until their tokens are used up
# if they may; and what comes between values is forced this way, which makes it drafts that hold.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function. `is_strict`: its arguments must fit the schema whatever the model thinks."""

    name: str
    description: str
    parameters: Mapping[str, Any]  # JSON schema of an object
    is_strict: bool = False

    def definition(self) -> dict[str, Any]:
        """As templates and OpenAI's API have it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Calls:
    """An answer that calls functions, each with arguments that fit; `is_required`: at least one."""

    tools: Sequence[Tool]
    is_required: bool
    are_many: bool


def check_number(num_functions: int) -> None:
    """Raises: InvalidRequest, if a request has more functions than may be."""
    if num_functions > MAX_TOOLS:
        raise InvalidRequest(f"'tools' has {num_functions} functions; {MAX_TOOLS} are possible.", "tools")


def normalize_tools(tools: Sequence[Any]) -> list[Tool]:
    """Raises: InvalidRequest that names the field (`tools.<i>.function.name`)."""
    check_number(len(tools))
    found = [_tool(tool, f"tools.{i}") for i, tool in enumerate(tools)]
    names = [tool.name for tool in found]
    for i, name in enumerate(names):
        if name in names[:i]:
            where = f"tools.{i}.function.name"
            raise InvalidRequest(f"'{where}' is '{name}', and so is that of another function.", where)
    return found


def _tool(tool: Any, where: str) -> Tool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type") != "function":
        raise InvalidRequest(f"'{where}' must be an object with type 'function' and a 'function'.", where)
    name, description = function.get("name"), function.get("description")
    parameters, strict = function.get("parameters"), function.get("strict")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"'{where}.function.name' must be 1 to 64 of a-z, A-Z, 0-9, '_', '-' and '.'.",
            f"{where}.function.name",
        )
    if description is not None and not isinstance(description, str):
        raise InvalidRequest(
            f"'{where}.function.description' must be a text.", f"{where}.function.description"
        )
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidRequest(
            f"'{where}.function.parameters' must be a JSON schema, an object.", f"{where}.function.parameters"
        )
    if not is_within(parameters, MAX_DEPTH):
        raise InvalidRequest(
            f"'{where}.function.parameters' is nested more than {MAX_DEPTH} levels deep.",
            f"{where}.function.parameters",
        )
    if strict is not None and not isinstance(strict, bool):
        raise InvalidRequest(f"'{where}.function.strict' must be true or false.", f"{where}.function.strict")
    return Tool(name, description or "", parameters or {"type": "object", "properties": {}}, bool(strict))
