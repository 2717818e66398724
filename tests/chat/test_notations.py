"""Every notation of calls: read as it is written, however it is cut; what is no call stays text."""

from __future__ import annotations

import json
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from notations import FAMILIES, TOOLS, template

from llm_serving.api.convert.tool_calls import CallReader
from llm_serving.chat.notations import NOTATIONS
from llm_serving.chat.notations.end_finder import EndFinder
from llm_serving.chat.notations.notation import Call, Notation
from llm_serving.chat.notations.teaching import IN_WORDS, History, Teaching, teaching_of
from llm_serving.chat.template import ChatTemplate
from llm_serving.chat.tools import Calls, Tool
from llm_serving.errors import ConstraintError

NESTED = {"a": [1, -2.5, None, {"b": 'x "y"'}], "ü€": {}, "t": True, "f": False, "e": [], "s": ""}
CALLS: dict[str, list[Call]] = {
    "plain": [Call("weather", {"city": "Rome", "days": 2, "exact": True})],
    "quotes": [Call("weather", {"city": '"it\'s" \\ `x`, (b=1) [2] {3}'})],
    "lines": [Call("weather", {"city": "a\n\n  b\tc\n"})],
    "unicode": [Call("weather", {"city": "Zürich 東京 😀 </b> & <br>"})],
    "texts that look like values": [Call("weather", {"city": "5", "note": "true"})],
    "numbers": [Call("weather", {"days": -12, "ratio": 1.5e-7})],
    "nested": [Call("get.any_thing-1", {"value": NESTED})],
    "null": [Call("weather", {"note": None, "exact": False})],
    "no arguments": [Call("now", {})],
    "several": [
        Call("weather", {"city": "Rome"}),
        Call("now", {}),
        Call("get.any_thing-1", {"list": [[], {}], "x": "y"}),
    ],
}
ALL = [pytest.param(family.notation, id=name) for name, family in FAMILIES.items()]


def read(notation: Notation, *pieces: str) -> tuple[str, list[tuple[str, Any]]]:
    """(text, calls) of an answer that comes in pieces."""
    reader = CallReader(TOOLS, notation, many=True)
    shown, found = "", []
    for i, piece in enumerate(pieces):
        more, calls = reader.feed(piece, is_last=i + 1 == len(pieces))
        shown, found = shown + more, found + calls
    return shown, [(call.name, json.loads(call.arguments)) for call in found]


def cuts(text: str) -> range:
    """At most a hundred places in it."""
    return range(0, len(text) + 1, 1 + len(text) // 100)


def written(notation: Notation, calls: list[Call]) -> str:
    """As one answer, or as the answers of a model that makes one call each."""
    return notation.write(calls[:1] if notation.one_a_message else calls)


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("notation", ALL)
def test_values_survive_and_so_they_do_at_every_cut(notation: Notation, case: str) -> None:
    text = written(notation, CALLS[case])
    expected = [tuple(call) for call in CALLS[case][: 1 if notation.one_a_message else None]]
    for at in cuts(text):
        assert read(notation, text[:at], text[at:]) == ("", expected), text[:at]
    assert read(notation, *text) == ("", expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_calls_as_models_write_them(name: str) -> None:
    family = FAMILIES[name]
    expected = [("weather", {"city": "Rome", "days": 2, "exact": True})]
    assert read(family.notation, family.written) == ("", expected)
    front, back = ("", "") if family.notation.is_first else ("Let me see. \n", "\n Done.")
    text = f"{front}{family.written}{back}"
    for at in cuts(text):
        shown, calls = read(family.notation, text[:at], text[at:])
        assert (shown, calls) == (front.rstrip() + back, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_that_was_cut_is_no_call(name: str) -> None:
    """Up to its last character but those that only close it."""
    family = FAMILIES[name]
    for at in cuts(family.written[:-1]):
        text = family.written[:at]
        shown, calls = read(family.notation, *text)
        if calls:  # nothing of it is missing
            assert calls == [("weather", {"city": "Rome", "days": 2, "exact": True})]
            assert family.notation.whole is not None
            assert text.rstrip().endswith((family.notation.whole, *family.notation.close))
        else:
            assert shown.strip() == text.strip()


@pytest.mark.parametrize("notation", ALL)
def test_markup_that_is_no_call_stays_text(notation: Notation) -> None:
    unknown = notation.write([Call("nothing", {"a": "b"})])
    texts = [
        unknown,
        f"{notation.open}",
        f"a {notation.open} b",
        f"{notation.open}{notation.close} c",
        f"a {notation.close} b",
        "{ [ ( \" ' <",
        f"{notation.open} oops {{ \" ' {notation.close} and more",
    ]
    for text in texts:
        for at in cuts(text):
            assert read(notation, text[:at], text[at:]) == (text, []), text


@pytest.mark.parametrize("notation", [each for each in ALL if not each.values[0].is_first])
def test_a_mark_that_is_talked_about_hides_no_call(notation: Notation) -> None:
    text = f'They begin with {notation.open}, " as in:\n'
    for at in range(len(text)):
        answer = text[:at], text[at:] + notation.write([Call("now", {})])
        assert read(notation, *answer) == (text.rstrip(), [("now", {})])


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_of_half_calls_is_read_in_steps_linear_in_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_looked_at = 0
    feed = EndFinder.feed

    def counted(finder: EndFinder, text: str) -> int:
        nonlocal num_looked_at
        num_looked_at += len(text)
        return feed(finder, text)

    monkeypatch.setattr(EndFinder, "feed", counted)
    family = FAMILIES[name]
    half = family.written[: len(family.written) // 2]
    for num_halves in (1, 300):
        text = half * num_halves
        num_looked_at = 0
        shown, calls = read(family.notation, text)
        assert (shown, calls) == (text, [])
        assert num_looked_at <= 9 * len(text) + (1 << 16) + 512 * num_halves  # pieces have 512


@pytest.mark.parametrize("notation", ALL)
def test_marks_within_values_are_values(notation: Notation) -> None:
    value = f"x {notation.close or notation.brackets} y"
    text = notation.write([Call("weather", {"city": value})])
    for at in cuts(text):
        assert read(notation, text[:at], text[at:]) == ("", [("weather", {"city": value})])


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_of_marks_in_any_order_are_read_the_same_however_they_are_cut(name: str) -> None:
    family, chance = FAMILIES[name], random.Random(7)
    notation = family.notation
    quotes = [mark for quote in notation.quotes for mark in (quote.begin, quote.end)]
    parts = [*notation.marks, *quotes, *notation.brackets, *' \n\\"a{}[]<(:', "now", "call:"]
    parts += [notation.open, notation.close, notation.write([Call("now", {})]), family.written] * 3
    for _ in range(120):
        texts = [chance.choice(parts) for _ in range(chance.randrange(1, 6))]
        text = "".join([*texts, family.written[chance.randrange(len(family.written)) :]])
        at = chance.randrange(len(text))
        whole = read(notation, text)
        assert read(notation, *text) == whole
        assert read(notation, text[:at], text[at:]) == whole


@pytest.mark.parametrize("name", FAMILIES)
def test_the_template_tells(name: str) -> None:
    family = FAMILIES[name]
    teaching = teaching_of(family.template, ChatTemplate(family.template).render, lambda mark: False)
    assert teaching.notation is family.notation
    assert teaching.history is (
        History.JSON if name in ("deepseek r1", "functionary 3.2") else History.ARGUMENTS
    )
    assert teaching.shows_functions


def test_templates_that_write_something_similar_are_told_in_words() -> None:
    for call in ("<tool_call>{{ f.name }}: {{ f.arguments }}</tool_call>", "[TOOL_CALLS]{{ f.name }}"):
        source = template("{{ tool | tojson }}", call + "{{ f.arguments | tojson }}")
        assert teaching_of(source, ChatTemplate(source).render, lambda mark: True) == IN_WORDS
    mute = template("", "")  # neither functions nor calls
    assert teaching_of(mute, ChatTemplate(mute).render, lambda mark: True) == IN_WORDS


def test_a_template_that_leaves_calls_out_and_shows_results_gets_them_as_text() -> None:
    """As DeepSeek R1's, for which a message with calls has no content, not even an empty one."""
    marks = "{# <｜tool▁calls▁begin｜>```json #}"
    source = template("", "{{ '' }}") + marks
    teaching = teaching_of(source, ChatTemplate(source).render, lambda mark: True)
    assert teaching == Teaching(FAMILIES["deepseek r1"].notation, History.TEXT, shows_functions=False)
    assert teaching_of(source, ChatTemplate(source).render, lambda mark: False) == IN_WORDS
    deaf = source.replace("{{ m.content }}", "{% if m.role != 'tool' %}{{ m.content }}{% endif %}")
    assert teaching_of(deaf, ChatTemplate(deaf).render, lambda mark: True) == IN_WORDS


def test_a_template_that_loses_calls_beside_a_text_gets_them_as_text() -> None:
    """As llama.cpp's for DeepSeek R1."""
    family = FAMILIES["deepseek 3.1"]
    source = family.template.replace("{% if m.tool_calls %}", "{% if m.tool_calls and not m.content %}")
    teaching = teaching_of(source, ChatTemplate(source).render, lambda mark: False)
    assert teaching == Teaching(family.notation, History.TEXT)


def test_a_template_that_wants_the_time_gets_the_day_so_that_turns_keep_what_they_begin_with() -> None:
    source = FAMILIES["firefunction"].template
    inputs = teaching_of(source, ChatTemplate(source).render, lambda mark: False).inputs([])
    assert date.fromisoformat(inputs["datetime"]) - date.today() in (timedelta(0), timedelta(-1))


def test_the_documentation_has_every_notation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text("utf-8").replace("\\|", "|")
    for family in FAMILIES.values():
        assert f"`{family.notation.open.splitlines()[0]}" in text


ODD: list[Any] = [
    *({}, True, None, 3, "x", [], {"description": "anything"}, {"type": {}}, {"type": ["array", "null"]}),
    *({"type": "array"}, {"type": "array", "items": 3}, {"type": "object"}, {"anyOf": []}, {"enum": 3}),
    *({"$ref": "#"}, {"$ref": "#/nowhere"}, {"$ref": 3}, {"type": "object", "additionalProperties": True}),
    *({"type": "array", "minItems": each} for each in ("x", -1, 0.5)),
    *({"type": "string", "minLength": "x"}, {"type": "string", "pattern": 3}),
    {"type": "object", "properties": 3},
]


@pytest.mark.parametrize("notation", NOTATIONS, ids=lambda notation: notation.signs[-1])
@pytest.mark.parametrize("schema", ODD, ids=str)
def test_no_schema_is_too_odd_for_a_grammar_or_a_refusal(notation: Notation, schema: Any) -> None:
    """Those of no type nest in themselves, since items of what may be a list are of no type again."""
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    calls = Calls([Tool("f", "", parameters)], is_required=True, are_many=True)
    try:
        grammar = notation.grammar(calls, {})
    except ConstraintError:
        grammar = ""
    is_refused = notation.signs == ("<|tool_call>",) and "minItems" in str(schema)
    assert grammar.startswith("start: ") != is_refused
