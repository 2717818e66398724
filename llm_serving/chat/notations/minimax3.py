"""MiniMax M3's calls: a mark before each tag, arguments named by their tags, and values of values inside.

]<]minimax[>[<tool_call>
]<]minimax[>[<invoke name="NAME">]<]minimax[>[<KEY>VALUE]<]minimax[>[</KEY>]<]minimax[>[</invoke>
]<]minimax[>[</tool_call>

An object has a tag for each of its keys, a list one called `item` for each item.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_serving.chat.messages import MAX_CALL_DEPTH
from llm_serving.chat.notations import lark
from llm_serving.chat.notations.notation import Call, Notation, Quote
from llm_serving.chat.notations.schemas import Schema, options_of, resolved, types_of, value_of, values_of
from llm_serving.chat.notations.tag_calls import as_text, schema_of
from llm_serving.chat.tools import Calls, Tool

_MARK = "]<]minimax[>["
_OPEN, _CLOSE = f"{_MARK}<tool_call>", f"{_MARK}</tool_call>"
_INVOKE, _INVOKE_END = f'{_MARK}<invoke name="', f"{_MARK}</invoke>"
_KEY, _KEY_END = f"{_MARK}<", f"{_MARK}</"
_ITEM = "item"
_HEAD = re.compile(rf'\s*{re.escape(_INVOKE)}([^<>"]*)">')
_TAG = re.compile(rf"\s*{re.escape(_KEY)}([^<>/\s]+)>")
_TAIL = re.compile(rf"\s*{re.escape(_INVOKE_END)}")


def read(text: str, tools: Mapping[str, Tool]) -> list[Call] | None:
    """Functions one after the other."""
    calls: list[Call] = []
    at = 0
    try:
        while head := _HEAD.match(text, at):
            root = tools[head[1]].parameters
            pairs, at = _pairs(text, head.end(), root, root, MAX_CALL_DEPTH)
            tail = _TAIL.match(text, at)
            if tail is None:
                return None
            at = tail.end()
            calls.append(Call(head[1], dict(pairs)))
    except (KeyError, ValueError):
        return None
    return calls if calls and not text[at:].strip() else None


def _pairs(text: str, at: int, schema: Any, root: Schema, depth: int) -> tuple[list[tuple[str, Any]], int]:
    """(what tags from `at` on hold, where they end). Raises: ValueError for a tag without an end."""
    found = []
    while tag := _TAG.match(text, at):
        inner = _items_of(schema, root) if tag[1] == _ITEM else None
        inner = _property(schema, tag[1], root) if inner is None else inner
        value, at = _value(text, tag.end(), tag[1], inner, root, depth - 1)
        found.append((tag[1], value))
    return found, at


def _value(text: str, at: int, key: str, schema: Any, root: Schema, depth: int) -> tuple[Any, int]:
    if depth < 0:
        raise ValueError("nested too deep")
    end = f"{_KEY_END}{key}>"
    types = types_of(schema, root)
    if types != frozenset({"string"}) and _TAG.match(text, at):
        pairs, behind = _pairs(text, at, schema, root, depth)
        behind = len(text) - len(text[behind:].lstrip()) if text[behind : behind + 1].isspace() else behind
        if text.startswith(end, behind):
            is_list = all(name == _ITEM for name, _ in pairs) and types != frozenset({"object"})
            return [value for _, value in pairs] if is_list else dict(pairs), behind + len(end)
    begin, at = at, text.index(end, at)
    written = text[begin:at]
    kinds = (types or frozenset()) & {"string", "array", "object"}
    if not written.strip() and kinds and "string" not in kinds:
        return [] if "array" in kinds else {}, at + len(end)
    return value_of(written, schema, root), at + len(end)


def _items_of(schema: Any, root: Schema) -> Any:
    """Of a list; None if it may be none."""
    for each in (resolved(schema, root), *options_of(resolved(schema, root))):
        found = resolved(each, root)
        if found.get("type") == "array" or "items" in found:
            return found.get("items", {})
    return None


def _property(schema: Any, key: str, root: Schema) -> Any:
    for each in (resolved(schema, root), *options_of(resolved(schema, root))):
        found = resolved(each, root)
        if "properties" in found or "additionalProperties" in found:
            return schema_of(key, found)
    return None


def write(calls: Sequence[Call]) -> str:
    texts = (f'{_INVOKE}{name}">{_object(arguments)}{_INVOKE_END}\n' for name, arguments in calls)
    return f"{_OPEN}\n{''.join(texts)}{_CLOSE}"


def _object(pairs: Mapping[str, Any]) -> str:
    return "".join(f"{_KEY}{key}>{_written(value)}{_KEY_END}{key}>" for key, value in pairs.items())


def _written(value: Any) -> str:
    """What is empty is JSON: it could not be told from an empty text."""
    if isinstance(value, dict) and value:
        return _object(value)
    if isinstance(value, list) and value:
        return "".join(f"{_KEY}{_ITEM}>{_written(item)}{_KEY_END}{_ITEM}>" for item in value)
    return as_text(value)


def grammar(calls: Calls, marks: lark.Marks) -> str:
    lines = lark.answer(calls, _OPEN, marks)
    more = " one*" if calls.are_many else ""
    lines.append(f'rest: "\\n" one{more} {lark.literal(_CLOSE, marks)}')
    lines.append("one: " + " | ".join(f"call{i}" for i in range(len(calls.tools))))
    for i, tool in enumerate(calls.tools):
        front, back = lark.literal(f'{_INVOKE}{tool.name}">', marks), lark.literal(f"{_INVOKE_END}\n", marks)
        rules = _Rules(tool, f"arguments{i}", marks)
        lines += [f"call{i}: {front} {rules.arguments()} {back}", *rules.lines]
    return "\n".join(lines)


class _Rules:
    """Lark for one function's arguments, in `lines`. What no schema describes is text, or JSON."""

    def __init__(self, tool: Tool, prefix: str, marks: lark.Marks) -> None:
        self.lines: list[str] = []
        self._root = tool.parameters
        self._tool = tool
        self._prefix = prefix
        self._marks = marks
        self._num_rules = 0
        self._known: dict[tuple[str, str], str] = {}  # a reference in a tag → its rule

    def arguments(self) -> str:
        """The name of their rule. Raises: ConstraintError."""
        return self._object(self._new(), resolved(self._root, self._root))

    def _new(self) -> str:
        self._num_rules += 1
        return f"{self._prefix}_{self._num_rules}"

    def _tagged(self, key: str, schema: Any) -> str:
        """The name of a rule for what the tag `key` holds, and its ends."""
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        known = (key, reference) if isinstance(reference, str) else None
        if known is not None and known in self._known:
            return self._known[known]
        rule = self._new()
        if known is not None:
            self._known[known] = rule
        self.lines.append(f"{rule}: {lark.literal(f'{_KEY}{key}>', self._marks)} {rule}_value")
        self._value(f"{rule}_value", key, schema)
        return rule

    def _value(self, rule: str, key: str, schema: Any) -> None:
        found = resolved(schema, self._root)
        end = f"{_KEY_END}{key}>"
        options = options_of(found)
        if options and values_of(found) is None:
            names = [f"{rule}_{i}" for i in range(len(options))]
            self.lines.append(f"{rule}: {' | '.join(names)}")
            for name, option in zip(names, options, strict=True):
                self._value(name, key, option)
        elif values_of(found) is None and isinstance(found.get("properties"), Mapping):
            inner = self._object(f"{rule}_object", found)
            self.lines.append(f"{rule}: {inner} {lark.literal(end, self._marks)}")
        elif values_of(found) is None and isinstance(found.get("items"), Mapping) and found["items"]:
            item = self._tagged(_ITEM, found["items"])
            least, most = found.get("minItems", 0), found.get("maxItems", "")
            counts = [count if type(count) is int and count >= 0 else "" for count in (least, most)]
            self.lines.append(
                f"{rule}: ({item}){{{counts[0] or 0},{counts[1]}}} {lark.literal(end, self._marks)}"
            )
        else:
            style = lark.ArgumentStyle("", "", end, marks=self._marks)
            self.lines += lark.value_rules(rule, schema, self._root, style)

    def _object(self, rule: str, schema: Schema) -> str:
        lark.check_properties(self._tool, schema)
        properties, required = schema.get("properties"), schema.get("required")
        parts = []
        for key, value in properties.items() if isinstance(properties, Mapping) else ():
            parts.append((self._tagged(key, value), isinstance(required, list) and key in required))
        self.lines += lark.in_order(rule, parts, "", "")
        return rule


MINIMAX_M3 = Notation(
    (_MARK, "toolcall_begin_token"),
    open=_OPEN,
    read=read,
    write=write,
    grammar=grammar,
    close=_CLOSE,
    marks=(_MARK,),
    quotes=(Quote(_KEY, _KEY_END, is_named=True),),
    whole=_INVOKE_END,
)
