"""A tag for the function and one for each argument, as Qwen3-Coder and Qwen3.5 write calls.

<tool_call>
<function=NAME>
<parameter=KEY>
VALUE
</parameter>
</function>
</tool_call>
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.json_calls import read_json
from llm_serving.chat.notations.notation import Call, Notation, Quote
from llm_serving.chat.notations.schemas import resolved, value_of
from llm_serving.chat.tools import Calls, Tool

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
# An argument ends where another follows, or nothing: texts may hold tags.
_END = re.compile(rf"{_PARAMETER_END}\s*(?={_PARAMETER}|{_FUNCTION_END}\s*\Z|\Z)")
_STYLE = lark.ArgumentStyle(_PARAMETER, ">\n", f"\n{_PARAMETER_END}\n")


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """What other models of the same makers write is read, too."""
    return read_tags(text, tools) or read_json(text)


def read_tags(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """One call. Values are texts; those that the schema does not want as texts are JSON, if they can be."""
    text = text.strip()
    if not text.startswith(_FUNCTION):
        return None
    name, named_end, inside = text[len(_FUNCTION) :].partition(">")
    if not named_end or name not in tools:
        return None
    root = tools[name].parameters
    inside = inside.strip()
    arguments: dict[str, Any] = {}
    while inside.startswith(_PARAMETER):
        key, key_end, value = inside[len(_PARAMETER) :].partition(">")
        end = _END.search(value)
        if not key_end or end is None:
            return None
        written = value[: end.start()].removeprefix("\n").removesuffix("\n")
        arguments[key] = value_of(written, schema_of(key, root), root)
        inside = value[end.end() :]
    return None if inside.removesuffix(_FUNCTION_END).strip() else [Call(name, arguments)]


def schema_of(key: str, root: Mapping[str, Any]) -> Any:
    """Of one argument."""
    schema = resolved(root, root)
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    return schema.get("additionalProperties")


def as_text(value: Any) -> str:
    """A value outside of JSON: texts as they are."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def write(calls: Sequence[Call]) -> str:
    return "\n".join(f"{OPEN}\n{_written(call)}\n{CLOSE}" for call in calls)


def _written(call: Call) -> str:
    arguments = (f"{_PARAMETER}{k}>\n{as_text(v)}\n{_PARAMETER_END}\n" for k, v in call.arguments.items())
    return f"{_FUNCTION}{call.name}>\n{''.join(arguments)}{_FUNCTION_END}"


def grammar(calls: Calls, marks: lark.Marks) -> str:
    lines = lark.answer(calls, OPEN, marks, between="\n")
    lines.append("rest: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    for i, tool in enumerate(calls.tools):
        front, back = f"\n{_FUNCTION}{tool.name}>\n", f"{_FUNCTION_END}\n{CLOSE}"
        lines.append(f"call{i}: {lark.literal(front)} arguments{i} {lark.literal(back, marks)}")
        lines += lark.argument_rules(f"arguments{i}", tool, _STYLE)
    return "\n".join(lines)


TAGS = Notation(
    (OPEN, _FUNCTION, _PARAMETER),
    OPEN,
    read,
    write,
    grammar,
    close=CLOSE,
    marks=(OPEN, CLOSE),
    quotes=(Quote(_PARAMETER, _PARAMETER_END),),
    whole=_FUNCTION_END,
)
