"""`functions` and `function_call`, OpenAI's names before there were tools, in today's words."""

from __future__ import annotations

import re
from typing import Any

from llm_serving.api.schemas.chat import ChatFields
from llm_serving.errors import InvalidRequest

# What errors call by today's names; see `convert/renaming.py`.
NAMES = (
    (re.compile(r"\btools\.(\d+)\.function\b"), r"functions.\1"),
    (re.compile(r"\btools\b"), "functions"),
    (re.compile(r"\btool_choice(\.function)?\b"), "function_call"),
)


def is_older(body: ChatFields) -> bool:
    """Whether a request speaks of functions in the older words. Raises: InvalidRequest if in both."""
    older = "functions" if body.functions else "function_call"
    newer = "tools" if body.tools else "tool_choice"
    if not body.functions and body.function_call is None:
        return False
    if body.tools or body.tool_choice is not None:
        raise InvalidRequest(f"'{older}' is an older name for what '{newer}' says. Send one of them.", older)
    return True


def in_todays_words(body: ChatFields) -> ChatFields:
    """The same request with `tools` and `tool_choice`; one call at most. Raises: InvalidRequest."""
    for i, function in enumerate(body.functions or []):
        if not isinstance(function, dict):
            raise InvalidRequest(f"'functions.{i}' must be an object with a 'name'.", f"functions.{i}")
    choice: Any = body.function_call
    if isinstance(choice, dict):
        choice = {"type": "function", "function": choice}
    elif choice not in (None, "none", "auto"):
        raise InvalidRequest(
            "'function_call' must be 'none', 'auto', or an object with the 'name' of a function.",
            "function_call",
        )
    tools = [{"type": "function", "function": function} for function in body.functions or []]
    return body.model_copy(update={"tools": tools, "tool_choice": choice, "parallel_tool_calls": False})
