"""Calls that must be, in every notation: models of random weights make valid ones in all APIs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fake_server import Client, data_of, open_client
from notations import FAMILIES, PARAMETERS, TOOLS, Family
from tiny_models import SMALLEST_VOCAB, write_tiny_llama

from llm_serving.backends.constraints import Constraints, Grammar
from llm_serving.backends.fake import VOCAB_SIZE, FakeTokenizer, load_fake_engine
from llm_serving.chat.template import ChatTemplate
from llm_serving.chat.tools import Calls
from llm_serving.config import Settings
from llm_serving.service import generation
from llm_serving.service.loader import engine_options, load_chat_model
from llm_serving.service.model import ChatModel

pytestmark = pytest.mark.anyio

FUNCTIONS = [TOOLS["weather"].definition(), TOOLS["now"].definition()]
NAMED = {"type": "function", "function": {"name": "weather"}}
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "tools": FUNCTIONS,
    "tool_choice": "required",
    "temperature": 1.0,
    "max_tokens": 1500,
}


@pytest.fixture(autouse=True)
def same_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of requests that name none: a number may have digits without end, and some draws run into the limit."""
    monkeypatch.setattr(generation, "random", Random(1))


@asynccontextmanager
async def scripted(family: Family, reply: str | None = None) -> AsyncIterator[Client]:
    """A model that says `reply`, or babbles; no mark is a token of its."""

    def load(settings: Settings) -> ChatModel:
        engine = load_fake_engine(engine_options(settings), reply=reply, random=reply is None)
        return ChatModel("m", engine, FakeTokenizer(), ChatTemplate(family.template))

    async with open_client(load) as client:
        yield client


@asynccontextmanager
async def native(family: Family, path: Path) -> AsyncIterator[Client]:
    """The native engine with random weights; all marks are control tokens."""
    marks = family.notation.marks
    vocab = SMALLEST_VOCAB + len(marks)
    write_tiny_llama(path / "tiny.gguf", context=4096, vocab=vocab, last_tokens=marks)

    def load(settings: Settings) -> ChatModel:
        return replace(load_chat_model(settings), template=ChatTemplate(family.template))

    async with open_client(load, model_name=str(path / "tiny.gguf"), engine="native") as client:
        assert set(client.services.registry.default.get().call_marks()) == set(marks)
        yield client


def check(name: str, arguments: Any) -> None:
    """Against `PARAMETERS`, by hand."""
    if name == "now":
        assert arguments == {}
        return
    assert name == "weather"
    assert set(PARAMETERS["required"]) <= set(arguments) <= set(PARAMETERS["properties"])
    assert isinstance(arguments["city"], str)
    assert len(arguments["city"]) <= 12
    assert type(arguments["days"]) is int
    assert type(arguments["exact"]) is bool
    assert type(arguments.get("ratio", 0.0)) in (int, float)
    assert arguments.get("unit", "C") in ("C", "F")
    assert len(arguments.get("note") or "") <= 9
    places = arguments.get("places", [])
    assert len(places) <= 2
    for place in places:
        assert set(place) <= {"name", "at"}
        assert isinstance(place["name"], str)
        assert place.get("at") is None


async def called(client: Client, **fields: Any) -> list[str]:
    """The names of calls that a chat request gets, whole and streamed alike."""
    response = await client.post("/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    calls = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    for call in calls:
        check(call["function"]["name"], json.loads(call["function"]["arguments"]))
    response = await client.post("/chat/completions", json={**ASKED, "stream": True, **fields})
    deltas = [chunk["choices"][0]["delta"] for chunk in data_of(response.text)[:-1]]
    streamed = [call["function"] for delta in deltas for call in delta.get("tool_calls", [])]
    assert streamed == [call["function"] for call in calls]
    assert not any(delta.get("content") for delta in deltas)
    return [call["function"]["name"] for call in calls]


@pytest.mark.parametrize("name", FAMILIES)
async def test_babblers_make_valid_calls(name: str) -> None:
    async with scripted(FAMILIES[name]) as client:
        one = {"seed": 0, "parallel_tool_calls": False}
        assert len(await called(client, **one)) == 1
        assert await called(client, **one, tool_choice=NAMED) == ["weather"]


@pytest.mark.parametrize("name", FAMILIES)
async def test_random_weights_make_valid_calls(name: str, tmp_path: Path) -> None:
    async with native(FAMILIES[name], tmp_path) as client:
        one = {"seed": 0, "parallel_tool_calls": False}
        assert await called(client, **one, tool_choice=NAMED) == ["weather"]
        for path, body, calls_of in OTHERS:
            response = await client.post(path, json={**body, "temperature": 1.0})
            assert response.status_code == 200, response.text
            (call,) = calls_of(response.json())
            check(*call)


def _of_response(body: Any) -> list[tuple[str, Any]]:
    items = [item for item in body["output"] if item["type"] == "function_call"]
    return [(item["name"], json.loads(item["arguments"])) for item in items]


def _of_message(body: Any) -> list[tuple[str, Any]]:
    return [(block["name"], block["input"]) for block in body["content"] if block["type"] == "tool_use"]


def _of_ollama(body: Any) -> list[tuple[str, Any]]:
    return [
        (call["function"]["name"], call["function"]["arguments"]) for call in body["message"]["tool_calls"]
    ]


_WEATHER = TOOLS["weather"]
OTHERS = [
    (
        "/responses",
        {
            "input": "Hi",
            "tools": [{"type": "function", "name": _WEATHER.name, "parameters": _WEATHER.parameters}],
            "tool_choice": {"type": "function", "name": _WEATHER.name},
            "max_output_tokens": 1500,
        },
        _of_response,
    ),
    (
        "/messages",
        {
            "messages": ASKED["messages"],
            "tools": [{"name": _WEATHER.name, "input_schema": _WEATHER.parameters}],
            "tool_choice": {"type": "tool", "name": _WEATHER.name},
            "max_tokens": 1500,
        },
        _of_message,
    ),
]


@pytest.mark.parametrize("name", FAMILIES)
async def test_ollamas_api_tells_the_same(name: str) -> None:
    async with scripted(FAMILIES[name], FAMILIES[name].written) as client:
        body = {"messages": ASKED["messages"], "tools": FUNCTIONS, "stream": False}
        (call,) = _of_ollama((await client.post("/api/chat", json=body)).json())
        assert call == ("weather", {"city": "Rome", "days": 2, "exact": True})


@pytest.mark.parametrize("name", FAMILIES)
async def test_several_calls_and_free_arguments_are_bound(name: str) -> None:
    """As many as the model wants; arguments that may all be left out, and those that only have a type."""
    place = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}}
    pair: dict[str, Any] = {
        "type": "object",
        "properties": {key: {"enum": [1, "a\nb", None]} for key in "abc"},
    }
    pair["additionalProperties"] = False
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in (("free", place), ("pair", pair))
    ]
    async with scripted(FAMILIES[name]) as client:
        found = []
        for seed in range(3):
            fields = {**ASKED, "tools": tools, "seed": seed, "max_tokens": 400, "n": 2}
            for choice in (await client.post("/chat/completions", json=fields)).json()["choices"]:
                calls = choice["message"].get("tool_calls", [])
                assert calls or choice["finish_reason"] == "length"
                found += [
                    (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls
                ]
            if found:
                break
        assert found
        for function, arguments in found:
            assert function in ("free", "pair")
            allowed = (1, "a\nb", None) if function == "pair" else None
            assert all(
                value in allowed if allowed else isinstance(value, str) for value in arguments.values()
            )


@pytest.mark.parametrize("name", ["tags", "glm", "lfm2", "gemma 4"])
async def test_what_cannot_be_bound_is_a_400(name: str) -> None:
    parameters = {"type": "object", "allOf": [{"required": ["a"]}]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    async with scripted(FAMILIES[name]) as client:
        response = await client.post("/chat/completions", json={**ASKED, "tools": tools})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "tools"
        assert "'allOf'" in error["message"]


FRAMED = [name for name, family in FAMILIES.items() if family.said != "{}"]


@pytest.mark.parametrize("name", FRAMED)
def test_strict_functions_leave_texts_free_in_messages(name: str) -> None:
    """What is bound says the headers, too, which would make a script begin again."""
    family, tokenizer = FAMILIES[name], FakeTokenizer()
    calls = Calls([TOOLS["weather"], TOOLS["now"]], is_required=False, are_many=False)
    constraints = Constraints(tokenizer, VOCAB_SIZE)
    for text in (family.said.format("No call."), family.said_before.format("So: ") + family.written):
        (answer,) = constraints.build(Grammar(family.notation.grammar(calls, {})), 1, "tools")
        for token in tokenizer.encode(text):
            assert np.unpackbits(answer.allowed()[0], bitorder="little")[token], text
            answer.accept(token)
        assert answer.is_satisfied
    wrong = family.said_before.format("So: ") + family.written.replace("Rome", "Rome" * 9)
    (answer,) = constraints.build(Grammar(family.notation.grammar(calls, {})), 1, "tools")
    for token in tokenizer.encode(wrong):
        if not np.unpackbits(answer.allowed()[0], bitorder="little")[token]:
            return
        answer.accept(token)
    raise AssertionError("a text that is too long was let through")


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - FRAMED))
async def test_strict_functions_leave_text_free_and_bind_calls(name: str) -> None:
    family = FAMILIES[name]
    strict = [{**each, "function": {**each["function"], "strict": True}} for each in FUNCTIONS]
    fields = {**ASKED, "tools": strict, "tool_choice": "auto", "parallel_tool_calls": False}
    async with scripted(family, "No call at all.") as client:
        answer = (await client.post("/chat/completions", json=fields)).json()["choices"][0]
        assert answer["message"]["content"] == "No call at all."
    front = "" if family.notation.is_first else "So: "
    async with scripted(family, front + family.written) as client:
        answer = (await client.post("/chat/completions", json=fields)).json()["choices"][0]
        (call,) = answer["message"]["tool_calls"]
        check(call["function"]["name"], json.loads(call["function"]["arguments"]))
        assert answer["message"]["content"] == (front.strip() or None)


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_call_that_max_tokens_cut_is_none(name: str) -> None:
    written = FAMILIES[name].written
    async with scripted(FAMILIES[name], written) as client:
        fields = {**ASKED, "tool_choice": "auto", "max_tokens": len(written) // 2}
        choice = (await client.post("/chat/completions", json=fields)).json()["choices"][0]
        assert choice["finish_reason"] == "length"
        assert "tool_calls" not in choice["message"]
