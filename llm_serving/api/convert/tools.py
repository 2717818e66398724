"""`tools` and `tool_choice` → which functions the model is told of, and what then binds its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm_serving.api.convert.functions import NAMES, in_todays_words, is_older
from llm_serving.api.convert.renaming import Names, named_as_sent
from llm_serving.api.schemas.chat import ChatFields
from llm_serving.chat.tools import MAX_TOOLS, Calls, Tool, normalize_tools
from llm_serving.errors import InvalidRequest

_CHOICES = "'none', 'auto', 'required', or an object that names a function or allowed ones"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request says of functions. `tools` is empty where none may be called."""

    tools: Sequence[Tool] = ()
    is_required: bool = False
    are_many: bool = True  # calls in one answer
    is_older: bool = False  # asked for, and told, in the words of `convert/functions.py`

    @property
    def names(self) -> Names:
        """What errors must be told by; see `convert/renaming.py`."""
        return NAMES if self.is_older else ()

    def form(self) -> Calls | None:
        """What binds the answer: where a call is required, or arguments are strict."""
        if not self.tools or not (self.is_required or any(tool.is_strict for tool in self.tools)):
            return None
        return Calls(self.tools, self.is_required, self.are_many)


NO_TOOLS = ToolUse()


def to_tool_use(body: ChatFields) -> ToolUse:
    """Raises: InvalidRequest that names the field."""
    if not is_older(body):
        return _tool_use(body)
    with named_as_sent(NAMES):
        return replace(_tool_use(in_todays_words(body)), is_older=True)


def _tool_use(body: ChatFields) -> ToolUse:
    tools = normalize_tools(body.tools or [])
    choice = body.tool_choice
    are_many = body.parallel_tool_calls is not False
    if choice in (None, "auto"):
        return ToolUse(tools, are_many=are_many)
    if choice == "none":
        return NO_TOOLS
    if choice == "required":
        chosen, is_required = tools, True
    elif isinstance(choice, dict):
        chosen, is_required, are_many = _of_object(choice, tools, are_many)
    else:
        raise InvalidRequest(f"'tool_choice' must be {_CHOICES}.", "tool_choice")
    if not chosen:
        raise InvalidRequest(
            "'tool_choice' asks for a call, and there are no 'tools' to call.", "tool_choice"
        )
    return ToolUse(chosen, is_required, are_many)


def _of_object(
    choice: dict[str, Any], tools: Sequence[Tool], are_many: bool
) -> tuple[list[Tool], bool, bool]:
    if choice.get("type") == "function":
        return [_named(choice, tools, "tool_choice")], True, False
    allowed = choice.get("allowed_tools")
    if choice.get("type") != "allowed_tools" or not isinstance(allowed, dict):
        raise InvalidRequest(f"'tool_choice' must be {_CHOICES}.", "tool_choice")
    mode, names = allowed.get("mode"), allowed.get("tools")
    if mode not in ("auto", "required"):
        raise InvalidRequest(
            "'tool_choice.allowed_tools.mode' must be 'auto' or 'required'.", "tool_choice.allowed_tools.mode"
        )
    where = "tool_choice.allowed_tools.tools"
    if not isinstance(names, list) or len(names) > MAX_TOOLS:
        raise InvalidRequest(f"'{where}' must be a list of up to {MAX_TOOLS} functions.", where)
    return [_named(name, tools, f"{where}.{i}") for i, name in enumerate(names)], mode == "required", are_many


def _named(item: Any, tools: Sequence[Tool], where: str) -> Tool:
    function = item.get("function") if isinstance(item, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    found = next((tool for tool in tools if tool.name == name), None)
    if found is None:
        known = ", ".join(tool.name for tool in tools) or "none"
        raise InvalidRequest(
            f"'{where}.function.name' is none of the functions in 'tools': {known[:200]}.",
            f"{where}.function.name",
        )
    return found
