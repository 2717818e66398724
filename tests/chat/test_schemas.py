"""What schemas say of arguments that are written outside of JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_serving.chat.notations.schemas import types_of, value_of
from llm_serving.chat.notations.strict_json import load_json

ROOT: dict[str, Any] = {
    "$defs": {"a/b": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}},
    "properties": {"x": {"type": "string"}},
}
OPTIONAL = {"anyOf": [{"type": "string"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["string", "null", 5]}, {"string", "null"}),
        ({"enum": ["a", 1, None, 1.5, [], {}]}, {"string", "integer", "null", "number", "array", "object"}),
        ({"const": True}, {"boolean"}),
        (OPTIONAL, {"string", "null"}),
        ({"oneOf": [{"type": "string"}, {}]}, None),
        ({"$ref": "#/$defs/a~1b"}, {"integer"}),
        ({"$ref": "#/properties/x"}, {"string"}),
        ({"$ref": "#/$defs/loop"}, None),
        ({"$ref": "#/nowhere"}, None),
        ({"properties": {}}, {"object"}),
        ({}, None),
        (True, None),
        (None, None),
    ],
)
def test_types(schema: Any, expected: set[str] | None) -> None:
    assert types_of(schema, ROOT) == expected


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ("5", {"type": "string"}, "5"),
        ("5", {"type": "integer"}, 5),
        ("5", {"type": "number"}, 5),
        ("five", {"type": "integer"}, "five"),
        ("True", {"type": "boolean"}, True),
        ("null", OPTIONAL, None),
        ("None", OPTIONAL, None),
        ("nothing", OPTIONAL, "nothing"),
        ("5", OPTIONAL, "5"),
        ("5", {}, 5),
        ("{oops", {}, "{oops"),
        ("123456789012345678901234567890", {"type": "integer"}, 123456789012345678901234567890),
    ],
)
def test_values(text: str, schema: Any, expected: Any) -> None:
    found = value_of(text, schema, ROOT)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "text", ["NaN", "[1e999]", '"\\ud800"', "[" * 2000 + "]" * 2000, "1" * 5000, "", "{"]
)
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        load_json(text)
