"""Functions that a model may call: how it is told of them, and how it writes a call.

One notation, that of Hermes, Qwen and SmolLM3: JSON between `<tool_call>` and `</tool_call>`. A template that
writes it gets the functions and the calls; for any other the same is said in words, in the system prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_serving.chat.messages import Message, is_within, with_text_before
from llm_serving.errors import InvalidRequest

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_TOOLS = 128
MAX_DEPTH = 64  # of a schema
# How bound answers write JSON: as `json.dumps` does. Small models write blanks until their tokens are used up
# if they may; and what comes between values is forced this way, which makes it drafts that hold.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_OTHER_NOTATIONS = ("<function=", "<arg_key>")  # between the same tags: Qwen3-Coder's, GLM-4.5's
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PROMPT = """You may call functions to answer the user. Each is JSON here, with a schema of its arguments:
<tools>
{tools}
</tools>

To call a function, write JSON with its name and its arguments between tags, and nothing after it:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""


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


def normalize_tools(tools: Sequence[Any]) -> list[Tool]:
    """Raises: InvalidRequest that names the field (`tools.<i>.function.name`)."""
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"'tools' has {len(tools)} functions; {MAX_TOOLS} are possible.", "tools")
    found = [_tool(tool, f"tools.{i}") for i, tool in enumerate(tools)]
    names = [tool.name for tool in found]
    for i, name in enumerate(names):
        if name in names[:i]:
            where = f"tools.{i}.function.name"
            raise InvalidRequest(f"'{where}' is '{name}', and so is that of another function.", where)
    return found


def reads_calls(template_source: str) -> bool:
    """Whether a template tells the model of functions in this notation."""
    is_other = any(sign in template_source for sign in _OTHER_NOTATIONS)
    return OPEN in template_source and "tools" in template_source and not is_other


def in_words(messages: Sequence[Message], tools: Sequence[Tool], *, has_system: bool = True) -> list[Message]:
    """The same conversation for a template that knows no functions.

    They stand in the system prompt, or before the first message if the template has none; calls in the
    assistant's text; results in the user's.
    """
    out: list[Message] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            if out and out[-1]["role"] == "user" and out[-1]["content"].startswith("<tool_response>"):
                out[-1] = Message(role="user", content=f"{out[-1]['content']}\n{content}")
            else:
                out.append(Message(role="user", content=content))
            continue
        calls = [_call_text(call["function"]) for call in message.get("tool_calls", ())]
        plain = Message(**{**message, "content": "\n".join([*([content] if content else []), *calls])})
        plain.pop("tool_calls", None)
        out.append(plain)
    if not tools:
        return out
    told = _PROMPT.format(
        tools="\n".join(json.dumps(tool.definition(), ensure_ascii=False) for tool in tools)
    )
    if out and out[0]["role"] == "system":
        told = f"{out.pop(0)['content']}\n\n{told}"
    if has_system or not out:
        return [Message(role="system", content=told), *out]
    return [with_text_before(out[0], f"{told}\n\n"), *out[1:]]


def calls_grammar(calls: Calls) -> str:
    """Lark: a call, or several; before the first any text, and no call at all, unless they are required."""
    tools = calls.tools
    # Schemas refer to parts of themselves from their root, which is not the root here.
    schemas = {str(i): _moved(dict(tool.parameters), f"#/$defs/{i}") for i, tool in enumerate(tools)}
    bodies = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/{i}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for i, tool in enumerate(tools)
    ]
    body = json.dumps({"anyOf": bodies, "$defs": schemas, "x-guidance": JSON_STYLE})
    more = ' ("\\n" call)*' if calls.are_many else ""
    lines = [f'call: "{OPEN}" rest', f'rest: "\\n" body "\\n{CLOSE}"', f"body: %json {body}"]
    if calls.is_required:
        return "\n".join([f"start: call{more}", *lines])
    text = [f"head[lazy]: /(?s:.*){OPEN}/", f"TEXT: /(?s:.+)/ & ~/(?s:.*){OPEN}(?s:.*)/"]
    return "\n".join([f"start: TEXT | head rest{more}", *text, *lines])


def _moved(schema: Any, root: str) -> Any:
    if isinstance(schema, list):
        return [_moved(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: root + value[1:]
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, root)
        for name, value in schema.items()
    }


def _call_text(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"{OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{CLOSE}"


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
