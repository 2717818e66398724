"""Values in Gemma 4's calls: written, and bound by a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llm_serving.chat.notations import lark
from llm_serving.chat.notations.schemas import Schema, options_of, resolved, values_of
from llm_serving.chat.tools import Tool
from llm_serving.errors import ConstraintError

MARK = '<|"|>'  # around texts
_ANYTHING = ""  # the name of what no schema says anything of, such as items of a list; no reference is empty
_ANY = ["string", "number", "boolean", "null", "array", "object"]
_OF_NUMBERS = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_BEYOND = (*lark.BEYOND, "prefixItems", "uniqueItems", "contains")


def written(value: Any) -> str:
    """Objects have their keys in order, as the template writes them."""
    if isinstance(value, str):
        return f"{MARK}{value}{MARK}"
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(value[key])}" for key in sorted(value, key=str.lower)) + "}"
    return json.dumps(value)


class ValueRules:
    """Lark rules for the values of one function's schema, in `lines`."""

    def __init__(self, tool: Tool, prefix: str, marks: lark.Marks) -> None:
        self.lines: list[str] = []
        self._tool = tool
        self._prefix = prefix
        self._marks = marks
        self._references: dict[str, str] = {}

    def value(self, schema: Any) -> str:
        """The name of a rule for what fits `schema`. Raises: ConstraintError for what cannot be bound."""
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        schema = resolved(schema, self._tool.parameters)
        name = reference if isinstance(reference, str) else _ANYTHING if not schema else None
        if name is not None and name in self._references:
            return self._references[name]
        rule = f"{self._prefix}_{len(self.lines)}"
        if name is not None:  # before its parts, which may be the same again
            self._references[name] = rule
        place = len(self.lines)
        self.lines.append(rule)
        self.lines[place] = f"{rule}: {self._body(rule, schema)}"
        return rule

    def _body(self, rule: str, schema: Schema) -> str:
        beyond = next((name for name in _BEYOND if name in schema), None)
        if beyond is not None:
            raise ConstraintError(
                f"The arguments of '{self._tool.name}' cannot be bound in this model's notation: their "
                f"schema has '{beyond}'. Leave it, or 'strict' and a required call, out.",
                "tools",
            )
        values, options = values_of(schema), options_of(schema)
        if values is not None:
            return " | ".join(lark.literal(written(value), self._marks) for value in values)
        if options:
            return " | ".join(self.value(each) for each in options)
        kind = schema.get("type") or ("object" if "properties" in schema else _ANY)
        if isinstance(kind, list):
            return " | ".join(self.value({**schema, "type": each}) for each in kind)
        return self._of_type(rule, kind, schema)

    def _of_type(self, rule: str, kind: str, schema: Schema) -> str:
        if kind == "object":
            return self._object(rule, schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            self.lines.append(self._text(rule, schema))
            mark = lark.literal(MARK, self._marks)
            return f"{mark} {rule}_text {mark}" if MARK in self._marks else f"{mark} {rule}_text"
        if kind in ("boolean", "null"):
            return '"true" | "false"' if kind == "boolean" else '"null"'
        self.lines.append(
            lark.json_rule(f"{rule}_number", {k: v for k, v in schema.items() if k in _OF_NUMBERS})
        )
        return f"{rule}_number"

    def _text(self, rule: str, schema: Schema) -> str:
        """Up to the next mark, which belongs to it where it is no token."""
        mark, name = lark.escaped(MARK), f"{rule}_text"
        if MARK in self._marks:
            terms = [*(f"/{each}/" for each in lark.patterns(schema)), f"~/(?s:.*){mark}(?s:.*)/"]
            return f"{name}: {name.upper()}\n{name.upper()}: {' & '.join(terms)}"
        terms = [f"/({each}){mark}/" for each in lark.patterns(schema)]
        return f"{name}[lazy]: {name.upper()}\n{name.upper()}: {' & '.join(terms)}"

    def _array(self, schema: Schema) -> str:
        item = self.value(schema.get("items", {}) if schema.get("items") is not True else {})
        least, most = self._count(schema, "minItems") or 0, self._count(schema, "maxItems")
        if most == 0:
            return '"[" "]"'
        more = f'{item} ("," {item}){{{max(0, least - 1)},{"" if most is None else most - 1}}}'
        return f'"[" {more} "]"' if least else f'"[" ({more})? "]"'

    def _count(self, schema: Schema, name: str) -> int | None:
        count = schema.get(name)
        if count is not None and (type(count) is not int or count < 0):
            raise ConstraintError(
                f"'{name}' in the arguments of '{self._tool.name}' must be a whole number, 0 or more.",
                "tools",
            )
        return count

    def _object(self, rule: str, schema: Schema) -> str:
        properties, required = schema.get("properties"), schema.get("required")
        parts = []
        of_keys: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
        for i, key in enumerate(sorted(of_keys, key=str.lower)):
            self.lines.append(f"{rule}_p{i}: {lark.literal(f'{key}:')} {self.value(of_keys[key])}")
            parts.append((f"{rule}_p{i}", isinstance(required, list) and key in required))
        further, more = schema.get("additionalProperties"), ""
        if further or (further is None and properties is None):
            more = f"{rule}_more"
            self.lines.append(f'{more}: /[A-Za-z0-9_]+/ ":" {self.value(further)}')
        self.lines += lark.in_order(f"{rule}_fields", parts, ",", more)
        return f'"{{" {rule}_fields "}}"'
