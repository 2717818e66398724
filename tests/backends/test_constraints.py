"""Whatever a model would say, what comes out has the form that was asked for."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from llm_serving.backends.constraints import Choice, Constraints, Form, Grammar, JsonSchema, Regex
from llm_serving.backends.fake import EOS_ID, VOCAB_SIZE, FakeTokenizer
from llm_serving.engine.constraint import TokenConstraint, forbid_others
from llm_serving.errors import ConstraintError

TOKENIZER = FakeTokenizer()
PADDED = VOCAB_SIZE + 37  # logits of models may be wider than their tokenizers
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def constraints() -> Constraints:
    return Constraints(TOKENIZER, PADDED)


def say(constraint: TokenConstraint, seed: int, most: int = 400) -> tuple[str, bool]:
    """(text, whether it came to its end) of a model that says anything at random."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    while len(ids) < most and not constraint.is_over:
        logits = rng.normal(0, 1, PADDED).astype(np.float32)
        forbid_others(logits, constraint.allowed()[0])
        token = int(logits.argmax())
        assert logits[token] > -np.inf
        assert token < VOCAB_SIZE
        if token in TOKENIZER.eos_ids:
            assert constraint.is_satisfied
            return TOKENIZER.decode(ids), True
        assert token not in TOKENIZER.special_ids
        ids.append(token)
        constraint.accept(token)
    return TOKENIZER.decode(ids), constraint.is_over and constraint.is_satisfied


def test_what_is_prepared_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = Constraints(TOKENIZER, PADDED)
    prepared.prepare()
    monkeypatch.setattr("llguidance.LLTokenizer", None)
    prepared.prepare()
    assert prepared.build(Choice(["a", "b"]), 2, "x")


def test_a_vocabulary_that_the_library_does_not_take_spoils_forms_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ValueError("too odd")

    monkeypatch.setattr("llguidance.LLTokenizer", refuse)
    Constraints(TOKENIZER, PADDED).prepare()
    assert caplog.messages == ["answers cannot have a form: too odd"]


@pytest.mark.parametrize("seed", range(8))
def test_json_of_a_schema(constraints: Constraints, seed: int) -> None:
    (constraint,) = constraints.build(JsonSchema(PERSON), 1, "x")
    text, is_whole = say(constraint, seed)
    assert is_whole
    person = json.loads(text)
    assert set(person) <= set(PERSON["properties"])  # type: ignore[call-overload]
    assert isinstance(person["name"], str)
    assert 0 <= person["age"] <= 150
    assert set(person.get("tags", [])) <= {"a", "b"}


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (Regex("[a-f]{3}-[0-9]{2,4}"), "[a-f]{3}-[0-9]{2,4}"),
        (Choice(["yes", "no", 'a "quoted" | one\n', "über"]), 'yes|no|a "quoted" \\| one\n|über'),
        (Grammar('start: "<" /[a-z]{1,5}/ ">"'), "<[a-z]{1,5}>"),
        (Grammar('root ::= "(" inner ")"\ninner ::= [0-9] [0-9]?'), r"\(\d\d?\)"),
    ],
    ids=["regex", "choice", "lark", "gbnf"],
)
def test_other_forms(constraints: Constraints, form: Form, pattern: str) -> None:
    said = set()
    for seed, constraint in enumerate(constraints.build(form, 12, "x")):
        text, is_whole = say(constraint, seed)
        assert is_whole
        assert re.fullmatch(pattern, text), text
        said.add(text)
    assert len(said) > 1, "copies go their own ways"


def test_json_is_written_on_one_line(constraints: Constraints) -> None:
    schema = {**PERSON, "required": ["name", "age", "tags"]}
    (constraint,) = constraints.build(JsonSchema(schema), 1, "x")
    text, is_whole = say(constraint, 3)
    assert is_whole
    assert text == json.dumps(json.loads(text), ensure_ascii=False) or "\\u" in text


def test_what_is_forced_is_told_ahead(constraints: Constraints) -> None:
    (constraint,) = constraints.build(Regex("(yes|no), because"), 1, "x")
    assert constraint.forced() == []
    constraint.accept(ord("n"))
    forced = constraint.forced()
    assert bytes(forced) == b"o, because"[: len(forced)]
    assert len(forced) > 3
    masks = constraint.allowed(forced)
    assert masks.shape == (1 + len(forced), -(-PADDED // 32) * 4)
    for token, mask in zip(forced, masks, strict=False):
        assert np.unpackbits(mask, bitorder="little")[token]
        # Nothing was taken by looking ahead.
        assert np.array_equal(constraint.allowed()[0], mask)
        constraint.accept(token)


def test_a_draft_that_does_not_fit_is_no_harm(constraints: Constraints) -> None:
    (constraint,) = constraints.build(Regex("abc"), 1, "x")
    masks = constraint.allowed([ord("a"), ord("z"), ord("c")])
    assert len(masks) == 4
    assert not constraint.is_over
    for letter in b"abc":
        assert np.flatnonzero(np.unpackbits(constraint.allowed()[0], bitorder="little"))[0] == letter
        constraint.accept(letter)
    assert constraint.is_satisfied


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (JsonSchema({"type": "none such"}), "none such"),
        (JsonSchema({"type": "object", "properties": 5}), "properties"),
        (JsonSchema({"$ref": "http://example.org/schema"}), ""),
        (JsonSchema({"not": {"type": "string"}}), "not"),
        (Regex("(a"), ""),
        (Grammar("start: other"), "other"),
        (Grammar("root ::= ("), ""),
        (Grammar("start: start"), "no text fits it$"),
        (Grammar("start: " + "(" * 5000 + '"a"' + ")" * 5000), ""),
    ],
    ids=str,
)
def test_what_is_no_form_is_refused_by_name(constraints: Constraints, form: Form, reason: str) -> None:
    with pytest.raises(ConstraintError, match=f"^'the_field' cannot be used: .*{reason}") as caught:
        constraints.build(form, 1, "the_field")
    assert caught.value.param == "the_field"
    assert len(str(caught.value)) < 500


def test_a_deep_schema_is_refused_or_built_but_nothing_breaks(constraints: Constraints) -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(400):
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}
    try:
        (constraint,) = constraints.build(JsonSchema(schema), 1, "x")
    except ConstraintError:
        return
    assert np.unpackbits(constraint.allowed()[0]).any()


def test_a_token_that_does_not_fit_ends_it_unsatisfied(constraints: Constraints) -> None:
    (constraint,) = constraints.build(Regex("abc"), 1, "x")
    constraint.accept(ord("z"))
    assert constraint.is_over
    assert not constraint.is_satisfied
    constraint.allowed()


def test_end_tokens_are_allowed_where_it_may_end(constraints: Constraints) -> None:
    (constraint,) = constraints.build(Regex("ab?"), 1, "x")
    for token, may_end in ((ord("a"), False), (ord("b"), True)):
        allowed = np.unpackbits(constraint.allowed()[0], bitorder="little")
        assert all(bool(allowed[i]) is may_end for i in TOKENIZER.eos_ids)
        assert EOS_ID in TOKENIZER.eos_ids
        constraint.accept(token)
    assert constraint.is_over
    assert constraint.is_satisfied


def test_objects_may_have_a_thousand_properties(constraints: Constraints) -> None:
    properties = {f"p{i}": {"type": "integer"} for i in range(1000)}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    (constraint,) = constraints.build(JsonSchema(schema), 1, "x")
    for byte in b'{"p999": 1}':
        assert np.unpackbits(constraint.allowed()[0], bitorder="little")[byte]
        constraint.accept(byte)
    assert constraint.is_satisfied


def test_what_takes_too_long_is_given_up(
    constraints: Constraints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (constraint,) = constraints.build(Regex("a{9}"), 1, "x")
    seconds = iter(range(0, 100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(seconds)))
    constraint.allowed()
    constraint.accept(ord("a"))
    assert constraint.is_over
    assert not constraint.is_satisfied
    assert "given up: it took 2.0 s for 1 tokens" in caplog.text


class Broken:
    """A matcher whose library panics."""

    class PanicException(BaseException):
        pass

    def __getattr__(self, name: str) -> Any:
        raise self.PanicException("at some line of Rust")


def test_a_panic_ends_the_answer_and_nothing_else(
    constraints: Constraints, caplog: pytest.LogCaptureFixture
) -> None:
    (constraint,) = constraints.build(Regex("ab"), 1, "x")
    constraint._matcher = Broken()  # type: ignore[attr-defined]
    assert constraint.forced() == []
    assert np.unpackbits(constraint.allowed()).all()
    constraint.accept(ord("a"))
    assert constraint.is_over
    assert not constraint.is_satisfied
    assert "at some line of Rust" in caplog.text
