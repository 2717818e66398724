"""Parts of Lark grammars (llguidance's dialect) for calls in any notation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from llm_serving.chat.notations.schemas import Schema, options_of, resolved, takes_text, values_of
from llm_serving.chat.tools import JSON_STYLE, Calls, Tool
from llm_serving.errors import ConstraintError

# Of objects: what no list of properties, one by one, can say.
BEYOND = (
    "allOf",
    "not",
    "if",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
)
TYPE = "\0"
_MAX_OPTIONS = 4  # one in the other, of what stands as it is
Marks = Mapping[str, int]  # strings that are special tokens → their ids


def literal(text: str, marks: Marks | None = None) -> str:
    """`text`, with special tokens in it where `marks` has some."""
    if not marks:
        return json.dumps(text, ensure_ascii=False)
    parts = re.split("(" + "|".join(map(re.escape, marks)) + ")", text)
    return " ".join(f"<[{marks[part]}]>" if part in marks else literal(part) for part in parts if part)


def escaped(text: str) -> str:
    """`text` in an expression between slashes."""
    return re.sub(r"([\\.+*?()|\[\]{}^$/&~])", r"\\\1", text).replace("\n", "\\n")


def moved(schema: Any, root: str) -> Any:
    """Schemas refer to parts of themselves from their root; here it is at `root`."""
    if isinstance(schema, list):
        return [moved(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: root + value[1:]
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else moved(value, root)
        for name, value in schema.items()
    }


def json_rule(name: str, schema: Schema) -> str:
    return f"{name}: %json {json.dumps({**schema, 'x-guidance': JSON_STYLE})}"


def answer(calls: Calls, open_: str, marks: Marks, *, between: str | None = None) -> list[str]:
    """An answer with calls, each `open_` and then the rule `rest`; several if there is something `between`.

    Before the first any text, and no call at all, unless they are required.
    """
    gap = f"{literal(between)} " if between else ""
    more = f" ({gap}call)*" if between is not None and calls.are_many else ""
    lines = [f"call: {literal(open_, marks)} rest"]
    if calls.is_required:
        return [f"start: call{more}", *lines]
    mark = escaped(open_)
    text = f"TEXT: /(?s:.+)/ & ~/(?s:.*){mark}(?s:.*)/"
    if any(name in open_ for name in marks):
        return [f"start: TEXT | TEXT? call{more}", text, *lines]
    return [f"start: TEXT | head rest{more}", f"head[lazy]: /(?s:.*){mark}/", text, *lines]


def text(name: str, *marks: str) -> str:
    """The rule `name`: any text, at least a character, that holds none of `marks`."""
    none = "".join(f" & ~/(?s:.*){escaped(mark)}(?s:.*)/" for mark in marks)
    return f"{name}: {name.upper()}\n{name.upper()}: /(?s:.+)/{none}"


def text_up_to(name: str, mark: str, marks: Marks) -> str:
    """The rule `name`: any text up to the first `mark`, and that."""
    if any(each in mark for each in marks):
        return f"{name}: ({name}_text)? {literal(mark, marks)}\n{text(f'{name}_text', mark)}"
    return f"{name}[lazy]: /(?s:.*){escaped(mark)}/"


class Quoted(NamedTuple):
    """Texts that hold one of the characters `odd` stand between `begin` and `end`, others may."""

    odd: str
    begin: str
    end: str


@dataclass(frozen=True, slots=True)
class ArgumentStyle:
    """How one argument is written: `before_key`, its name, `before_value`, the value, `end`.

    is_raw: texts stand as they are. words: what is not written as in JSON. before_json: in place of
    `before_value` before what is no text; `TYPE` in it stands for JSON's name of its type. marks: special
    tokens in any of these.
    """

    before_key: str
    before_value: str
    end: str = ""
    separator: str = ""
    is_raw: bool = True
    words: Mapping[str, str] | None = None
    before_json: str | None = None
    quoted: Quoted | None = None  # of texts that stand as they are
    marks: Marks | None = None

    @property
    def front(self) -> str:
        """What any value has before it."""
        return self.before_value if self.before_json is None else ""


def argument_rules(rule: str, tool: Tool, style: ArgumentStyle) -> list[str]:
    """`rule`: the arguments of `tool`, in the schema's order. Raises: ConstraintError."""
    root = tool.parameters
    schema = resolved(root, root)
    check_properties(tool, schema)
    properties, required = schema.get("properties"), schema.get("required")
    lines: list[str] = []
    parts: list[tuple[str, bool]] = []
    for i, (key, value) in enumerate(properties.items() if isinstance(properties, Mapping) else ()):
        name = f"{rule}_{i}"
        front = literal(style.before_key + key + style.front, style.marks)
        lines += [f"{name}: {front} {name}_value", *value_rules(f"{name}_value", value, root, style)]
        parts.append((name, isinstance(required, list) and key in required))
    further = schema.get("additionalProperties")
    if further:
        name = f"{rule}_more"
        front = f"{literal(style.before_key, style.marks)} " if style.before_key else ""
        back = literal(style.front, style.marks)
        lines.append(f"{name}: {front}/[A-Za-z0-9_]+/ {back} {name}_value")
        lines += value_rules(f"{name}_value", further, root, style)
    return [*lines, *in_order(rule, parts, style.separator, f"{rule}_more" if further else "")]


def check_properties(tool: Tool, schema: Schema) -> None:
    """Raises: ConstraintError for an object of `tool` of which more is said than its properties."""
    beyond = next((name for name in (*BEYOND, "anyOf", "oneOf") if name in schema), None)
    if beyond is not None:
        raise ConstraintError(
            f"The arguments of '{tool.name}' cannot be bound in this model's notation: their schema has "
            f"'{beyond}' beside single properties. List the properties, or leave 'strict' and a required "
            "call out.",
            "tools",
        )


def in_order(rule: str, parts: Sequence[tuple[str, bool]], separator: str, more: str) -> list[str]:
    """`parts` one after the other, those that are not required or not; then `more`, as often as wanted."""
    if not separator:
        each = [name if is_required else f"{name}?" for name, is_required in parts]
        return [f"{rule}: " + (" ".join([*each, *([f"{more}*"] if more else [])]) or '""')]
    gap, lines = literal(separator), []
    for i, (name, is_required) in enumerate(parts):  # as long as nothing was written, and then
        skip = ("", "") if is_required else (f" | {rule}_first{i + 1}", f" | {rule}_then{i + 1}")
        lines.append(f"{rule}_first{i}: {name} {rule}_then{i + 1}{skip[0]}")
        lines.append(f"{rule}_then{i}: {gap} {name} {rule}_then{i + 1}{skip[1]}")
    end = len(parts)
    lines.append(f"{rule}_first{end}: " + (f'"" | {more} ({gap} {more})*' if more else '""'))
    lines.append(f"{rule}_then{end}: " + (f"({gap} {more})*" if more else '""'))
    return [*lines, f"{rule}: {rule}_first0"]


def value_rules(
    rule: str, schema: Any, root: Schema, style: ArgumentStyle, depth: int = _MAX_OPTIONS
) -> list[str]:
    """`rule`: a value and the end behind it."""
    options = options_of(resolved(schema, root))
    if style.is_raw and takes_text(schema, root) and options and depth:
        names = [f"{rule}_{i}" for i in range(len(options))]
        each = zip(names, options, strict=True)
        lines = [value_rules(name, option, root, style, depth - 1) for name, option in each]
        return [f"{rule}: {' | '.join(names)}", *chain.from_iterable(lines)]
    if style.is_raw and takes_text(schema, root):
        found = patterns(resolved(schema, root))
        if style.quoted is not None:
            return _quoted_rules(rule, found, style.quoted, style.end)
        if any(mark in style.end for mark in style.marks or ()):
            return _text_before_mark(rule, found, style)
        whole = " & ".join(f"/({pattern}){escaped(style.end)}/" for pattern in found)
        name = rule if style.before_json is None else f"{rule}_text"
        texts = [f"{name}[lazy]: {rule.upper()}", f"{rule.upper()}: {whole}"]
        return (
            texts if name == rule else [f"{rule}: {literal(style.before_value, style.marks)} {name}", *texts]
        )
    end = f" {literal(style.end, style.marks)}" if style.end else ""
    words = style.words or {}
    kind = resolved(schema, root).get("type")
    if isinstance(kind, str) and kind in words and "enum" not in schema and "const" not in schema:
        return [f"{rule}: ({words[kind]}){end}"]
    own = moved(dict(schema), "#/$defs/root") if isinstance(schema, Mapping) else {}
    if "$ref" in json.dumps(own):
        own = {**own, "$defs": {"root": moved(dict(root), "#/$defs/root")}}
    front = ""
    if style.before_json is not None:
        told = "number" if kind == "integer" else kind if isinstance(kind, str) else "object"
        front = f"{literal(style.before_json.replace(TYPE, told), style.marks)} "
    return [f"{rule}: {front}{rule}_json{end}", json_rule(f"{rule}_json", own)]


def _text_before_mark(rule: str, found: Sequence[str], style: ArgumentStyle) -> list[str]:
    """No text can be a special token; it is not written like one, either."""
    terms = [*(f"/{pattern}/" for pattern in found), f"~/(?s:.*){escaped(style.end)}(?s:.*)/"]
    front = f"{literal(style.before_value, style.marks)} " if style.before_json is not None else ""
    end = literal(style.end, style.marks)
    return [f"{rule}: {front}{rule.upper()} {end}", f"{rule.upper()}: {' & '.join(terms)}"]


def _quoted_rules(rule: str, found: Sequence[str], quoted: Quoted, end: str) -> list[str]:
    plain = [f"/({pattern}){escaped(end)}/" for pattern in found]
    inside = [f"/({pattern}){escaped(quoted.end + end)}/" for pattern in found]
    bare = f"/[^{escaped(quoted.odd)}]*{escaped(end)}/"
    return [
        f"{rule}: {rule.upper()}_BARE | {literal(quoted.begin)} {rule}_quoted",
        f"{rule.upper()}_BARE: {' & '.join([*plain, bare])}",
        f"{rule}_quoted[lazy]: {rule.upper()}",
        f"{rule.upper()}: {' & '.join(inside)}",
    ]


def patterns(schema: Schema) -> list[str]:
    """Expressions that a text which stands as it is must match, all of them."""
    values = values_of(schema)
    if values is not None:
        texts = (value if isinstance(value, str) else json.dumps(value) for value in values)
        return ["|".join(map(escaped, texts))]
    found = []
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int) or isinstance(most, int):
        found.append(f"(?s:.{{{least or 0},{'' if most is None else most}}})")
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        front = "" if pattern.startswith("^") else "(?s:.*)"
        back = "" if pattern.endswith("$") else "(?s:.*)"
        bare = re.sub(r"(?<!\\)/", r"\\/", pattern.removeprefix("^").removesuffix("$"))
        found.append(f"{front}({bare}){back}")
    return found or ["(?s:.*)"]
