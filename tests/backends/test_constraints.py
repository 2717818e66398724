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
        forbid_others(logits, constraint.allowed())
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


def test_any_object_is_json_and_blanks_are_bounded(constraints: Constraints) -> None:
    """A model that prefers blanks gets no further than twenty of them."""
    (constraint,) = constraints.build(JsonSchema({"type": "object"}), 1, "x")
    ids: list[int] = []
    for _ in range(60):
        allowed = np.unpackbits(constraint.allowed(), bitorder="little")
        is_inside_text = ids.count(ord('"')) % 2
        wanted = [ord('"')] if is_inside_text else [10, 32, 9]
        token = next((i for i in wanted if allowed[i]), int(np.flatnonzero(allowed)[0]))
        ids.append(token)
        constraint.accept(token)
        if constraint.is_over:
            break
    text = TOKENIZER.decode(ids)
    assert text.startswith("{")
    assert max(len(run) for run in re.findall(r"\s*", text)) <= 22


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
    assert np.unpackbits(constraint.allowed()).any()


def test_a_token_that_does_not_fit_ends_it_unsatisfied(constraints: Constraints) -> None:
    (constraint,) = constraints.build(Regex("abc"), 1, "x")
    constraint.accept(ord("z"))
    assert constraint.is_over
    assert not constraint.is_satisfied
    constraint.allowed()


def test_end_tokens_are_allowed_where_it_may_end(constraints: Constraints) -> None:
    (constraint,) = constraints.build(Regex("ab?"), 1, "x")
    for token, may_end in ((ord("a"), False), (ord("b"), True)):
        allowed = np.unpackbits(constraint.allowed(), bitorder="little")
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
        assert np.unpackbits(constraint.allowed(), bitorder="little")[byte]
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
