"""Calls of functions with a tag for each argument."""

from __future__ import annotations

import pytest

from llm_serving.chat.notations.tags import read_tags
from llm_serving.chat.tools import Tool

TYPES = {
    "city": "string",
    "days": "integer",
    "where": "object",
    "exact": "boolean",
    "note": ["string", "null"],
}
PARAMETERS = {"type": "object", "properties": {name: {"type": kind} for name, kind in TYPES.items()}}
TOOLS = {"weather": Tool("weather", "", PARAMETERS), "now": Tool("now", "", {})}


def call(name: str, **arguments: str) -> str:
    inside = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"\n<function={name}>\n{inside}</function>\n"


def test_values_are_what_the_schema_wants() -> None:
    text = call("weather", city="123", days="5", where='{"lat": 1.5}', exact="True", note="null", other="[1]")
    expected = {"city": "123", "days": 5, "where": {"lat": 1.5}, "exact": True, "note": None, "other": [1]}
    assert read_tags(text, TOOLS) == [("weather", expected)]


def test_texts_stay_as_they_are() -> None:
    """Lines, blanks and tags inside; only the line ends next to the tags belong to the notation."""
    value = "\n  if a < b:\n    print('</b> & <parameter>')\n"
    assert read_tags(call("weather", city=value), TOOLS) == [("weather", {"city": value})]
    assert read_tags("<function=weather><parameter=city>x</parameter>", TOOLS) == [("weather", {"city": "x"})]


def test_no_arguments() -> None:
    assert read_tags(call("now"), TOOLS) == [("now", {})]


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"name": "now"}',
        call("other"),
        "<function=now",
        "<function=now>\nsome text\n</function>",
        "<function=weather>\n<parameter=city>\nx\n</function>",
        "<function=weather>\n<parameter=city>\nx\n</parameter> and more </function>",
        "<function=weather>\n<parameter=city",
    ],
)
def test_what_is_no_call(text: str) -> None:
    assert read_tags(text, TOOLS) is None


def test_lists_and_objects_may_be_pythons_where_no_text_can_stand() -> None:
    where = "{'a': ['it', None], 'b': True}"
    expected = {"where": {"a": ["it", None], "b": True}, "note": where, "days": "x = 1"}
    assert read_tags(call("weather", where=where, note=where, days="x = 1"), TOOLS) == [("weather", expected)]
    assert read_tags(call("weather", where="{'a': f()}"), TOOLS) == [("weather", {"where": "{'a': f()}"})]


def test_a_value_that_is_no_json_is_a_text() -> None:
    assert read_tags(call("weather", days="five"), TOOLS) == [("weather", {"days": "five"})]
