"""Answers of a given form, in process: a fake model that babbles, and the real constraints."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_server import Client, data_of, open_client

from llm_serving.api.convert.form import MAX_SCHEMA_BYTES

pytestmark = pytest.mark.anyio

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 1.0, "max_tokens": 200}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "maximum": 9}, "on": {"type": "boolean"}},
    "required": ["x", "on"],
    "additionalProperties": False,
}


def of_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, **more}}
    }


@pytest.fixture
async def babble() -> AsyncIterator[Client]:
    async with open_client(behaviour={"random": True}) as client:
        yield client


async def choices(client: Client, path: str = "/chat/completions", **fields: Any) -> list[dict[str, Any]]:
    base = CHAT if "chat" in path else {"prompt": "Hi", "temperature": 1.0, "max_tokens": 200}
    response = await client.post(path, json={**base, **fields})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["choices"]
    return found


async def test_json_of_a_schema_for_every_choice(babble: Client) -> None:
    found = await choices(babble, n=4, seed=1, **of_schema(POINT, strict=True))
    points = [json.loads(choice["message"]["content"]) for choice in found]
    assert {choice["finish_reason"] for choice in found} == {"stop"}
    assert all(set(point) == {"x", "on"} and point["x"] <= 9 for point in points)
    assert len({str(point) for point in points}) > 1


async def test_any_object(babble: Client) -> None:
    for seed in range(3):
        (choice,) = await choices(babble, seed=seed, max_tokens=900, response_format={"type": "json_object"})
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)
        else:
            assert choice["message"]["content"].startswith("{")


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"regex": "[0-9]{3}-[a-c]+x"}, "[0-9]{3}-[a-c]+x"),
        ({"choice": ["yes", "no", "per haps"]}, "yes|no|per haps"),
        ({"grammar": 'start: "a" /[0-9]{2}/'}, "a[0-9]{2}"),
        ({"grammar": 'root ::= "a" [0-9] [0-9]'}, "a[0-9]{2}"),
    ],
    ids=["regex", "choice", "lark", "gbnf"],
)
async def test_other_forms(babble: Client, path: str, fields: dict[str, Any], pattern: str) -> None:
    (choice,) = await choices(babble, path, seed=2, **fields)
    text = choice["message"]["content"] if "chat" in path else choice["text"]
    assert re.fullmatch(pattern, text)
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"json_schema": POINT}, "json_schema"),
        ({"guided_json": POINT}, "guided_json"),
        ({"guided_json": json.dumps(POINT)}, "guided_json"),
        ({"guided_regex": "a[0-9]"}, "guided_regex"),
        ({"guided_choice": ["a1"]}, "guided_choice"),
        ({"guided_grammar": 'start: "a1"'}, "guided_grammar"),
        ({"structured_outputs": {"json": POINT}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": json.dumps(POINT)}}, "structured_outputs.json"),
        ({"structured_outputs": {"json_object": True}}, "structured_outputs.json_object"),
        ({"structured_outputs": {"regex": "a[0-9]", "json_object": False}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["a1"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": 'start: "a1"'}}, "structured_outputs.grammar"),
    ],
)
async def test_names_that_other_servers_have_for_it(
    babble: Client, fields: dict[str, Any], param: str
) -> None:
    (choice,) = await choices(babble, "/completions", seed=4, **fields)
    if "json" not in param:
        assert re.fullmatch("a[0-9]", choice["text"])
    elif param.endswith("object"):
        assert choice["text"].startswith("{")
    else:
        assert set(json.loads(choice["text"])) == {"x", "on"}
    twice = {"prompt": "Hi", "regex": "b", **fields}
    error = (await babble.post("/completions", json=twice)).json()["error"]
    assert "both say what the answer looks like" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_json": 5}, "guided_json"),
        ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": "nothing"}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object"),
        ({"json_schema": {"type": "no such"}}, "json_schema"),
        ({"guided_json": {"a": "x" * MAX_SCHEMA_BYTES}}, "guided_json"),
        ({"guided_json": " " * (MAX_SCHEMA_BYTES + 1)}, "guided_json"),
        ({"guided_json": '{"a":' * 5000}, "guided_json"),
        ({"structured_outputs": {"json": '{"a":' * 200 + "1" + "}" * 200}}, "structured_outputs.json"),
    ],
)
async def test_bad_forms_by_other_names_name_the_field(
    babble: Client, fields: dict[str, Any], param: str
) -> None:
    response = await babble.post("/chat/completions", json={**CHAT, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_stream_says_the_same(babble: Client) -> None:
    asked = {**CHAT, "seed": 5, "logprobs": True, **of_schema(POINT)}
    (whole,) = await choices(babble, **asked)
    chunks = data_of((await babble.post("/chat/completions", json={**asked, "stream": True})).text)[:-1]
    pieces = [chunk["choices"][0] for chunk in chunks]
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == whole["message"]["content"]
    assert pieces[-1]["finish_reason"] == "stop"


async def test_what_is_cut_off_says_so(babble: Client) -> None:
    (choice,) = await choices(babble, max_tokens=4, **of_schema(POINT))
    assert choice["finish_reason"] == "length"


async def test_a_form_does_not_reach_others(babble: Client) -> None:
    free = await choices(babble, seed=9, max_tokens=30, ignore_eos=True)
    await choices(babble, seed=9, **of_schema(POINT))
    assert await choices(babble, seed=9, max_tokens=30, ignore_eos=True) == free


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": {}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": 5}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": []}}, "response_format", "schema"),
        (of_schema([]), "response_format.json_schema.schema", "an object"),
        (of_schema({"type": "strnig"}), "response_format.json_schema.schema", "strnig"),
        (of_schema({"enum": ["x" * MAX_SCHEMA_BYTES]}), "response_format.json_schema.schema", "bytes"),
        ({"regex": "(", "stream": True}, "regex", "cannot be used"),
        ({"regex": ""}, "regex", ""),
        ({"grammar": "start: nothing"}, "grammar", "nothing"),
        ({"choice": ["a", ""]}, "choice.1", ""),
        ({"choice": ["a"], "regex": "a"}, "choice", "'regex' and 'choice'"),
        ({"regex": "a", **of_schema(POINT)}, "regex", "'response_format' and 'regex'"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_is_refused(babble: Client, fields: dict[str, Any], param: str, message: str) -> None:
    response = await babble.post("/chat/completions", json={**CHAT, **fields})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"].startswith(param)
    assert message in error["message"]
