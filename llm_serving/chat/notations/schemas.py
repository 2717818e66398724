"""What a function's schema says of one argument that a model writes outside of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_serving.chat.notations.literals import Literals
from llm_serving.chat.notations.strict_json import load_json

_MAX_REFERENCES = 16  # one behind the other
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_WORDS = {"True": True, "False": False, "None": None}  # as templates write a history's values

Schema = Mapping[str, Any]


def resolved(schema: Any, root: Schema) -> Schema:
    """`schema` behind its references to parts of `root`; what is none says nothing."""
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            break
        schema = root
        for name in filter(None, reference[1:].split("/")):
            name = name.replace("~1", "/").replace("~0", "~")
            schema = schema.get(name) if isinstance(schema, Mapping) else None
    return schema if isinstance(schema, Mapping) else {}


def values_of(schema: Schema) -> list[Any] | None:
    """All values that fit, where the schema lists them."""
    values = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else None
    return values if isinstance(values, list) else None


def options_of(schema: Schema) -> list[Any]:
    """Schemas of which one must fit, if there are such."""
    return next((schema[name] for name in ("anyOf", "oneOf") if isinstance(schema.get(name), list)), [])


def types_of(schema: Any, root: Schema, depth: int = _MAX_REFERENCES) -> frozenset[str] | None:
    """JSON types that a value may have; None where the schema does not say."""
    schema = resolved(schema, root)
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(each for each in kind if isinstance(each, str))
    values, options = values_of(schema), options_of(schema)
    if values is not None:
        return frozenset(map(type_of, values))
    if options and depth:
        found = [types_of(each, root, depth - 1) for each in options]
        known = [each for each in found if each is not None]
        return frozenset().union(*known) if len(known) == len(found) else None
    return frozenset({"object"}) if "properties" in schema else None


def takes_text(schema: Any, root: Schema) -> bool:
    """Whether any text may be a value."""
    types = types_of(schema, root)
    return types is None or "string" in types


def type_of(value: Any) -> str:
    """What JSON calls it."""
    return _TYPES.get(type(value)) or ("array" if isinstance(value, list) else "object")


def value_of(text: str, schema: Any, root: Schema) -> Any:
    """The value that `text` stands for: itself where the schema wants a text, else JSON if it can be.

    Lists and objects may be Python's where no text can stand: some templates write a history's so.
    """
    types = types_of(schema, root)
    if types == frozenset({"string"}):
        return text
    try:
        value = _WORDS[text] if text in _WORDS else load_json(text)
    except ValueError:
        value = _literal(text) if types is not None and "string" not in types else None
        if value is None:
            return text
    kind = type_of(value)
    fits = types is None or kind in types or (kind == "integer" and "number" in types)
    return value if fits or types is None or "string" not in types else text


def _literal(text: str) -> Any:
    """A list or an object as Python writes it; None for anything else."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    literals = Literals(text)
    try:
        value = literals.value()
    except ValueError:
        return None
    return value if literals.is_over else None
