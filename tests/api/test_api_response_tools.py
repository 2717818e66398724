"""Tools of the Responses API that are no plain functions, and items that are named by their ids."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import Client, open_client, typed_events

pytestmark = pytest.mark.anyio

FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
PATCH = {"type": "custom", "name": "patch", "description": "Changes files."}
SPACE = {"type": "namespace", "name": "agents", "description": "Helpers.", "tools": [FUNCTION, PATCH]}


def reply(name: str, **arguments: Any) -> dict[str, Any]:
    call = json.dumps({"name": name, "arguments": arguments})
    return {"reply": f"<tool_call>\n{call}\n</tool_call>"}


async def created(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/responses", json={"input": "Hi", **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def error_of(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/responses", json={"input": "Hi", **fields})
    assert response.status_code == 400, response.text
    found: dict[str, Any] = response.json()["error"]
    assert f"'{found['param']}'" in found["message"]
    return found


async def count(client: Client, **fields: Any) -> int:
    response = await client.post("/responses/input_tokens", json={"input": "Hi", **fields})
    assert response.status_code == 200, response.text
    return int(response.json()["input_tokens"])


async def test_a_custom_tool_is_called_with_a_text() -> None:
    async with open_client(behaviour=reply("patch", input="*** Begin\n+a")) as client:
        whole = await created(client, tools=[PATCH])
        sent = {"input": "Hi", "tools": [PATCH], "stream": True}
        events = typed_events((await client.post("/responses", json=sent)).text)
    for (item,) in (whole["output"], events[-1]["response"]["output"]):
        assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", "*** Begin\n+a")
        assert item["id"].startswith("ctc_")
        assert "arguments" not in item
    delta, done = (
        next(event for event in events if event["type"] == f"response.custom_tool_call_input.{kind}")
        for kind in ("delta", "done")
    )
    assert delta["delta"] == done["input"] == "*** Begin\n+a"
    assert whole["tools"] == [PATCH]


async def test_what_is_no_text_is_told_as_it_is() -> None:
    async with open_client(behaviour=reply("patch", files=[1])) as client:
        (item,) = (await created(client, tools=[PATCH]))["output"]
    assert json.loads(item["input"]) == {"files": [1]}


async def test_functions_of_a_namespace_are_told_by_it() -> None:
    async with open_client(behaviour=reply("weather")) as client:
        (item,) = (await created(client, tools=[SPACE]))["output"]
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "weather", "agents")


async def test_names_that_are_taken_are_known_with_their_namespace() -> None:
    other = {**SPACE, "name": "others"}
    for behaviour, expected in (
        (reply("weather"), ("weather", None)),
        (reply("agents.weather"), ("weather", "agents")),
        (reply("others.patch", input=""), ("patch", "others")),
    ):
        async with open_client(behaviour=behaviour) as client:
            (item,) = (await created(client, tools=[SPACE, FUNCTION, other]))["output"]
        assert (item["name"], item.get("namespace")) == expected


async def test_a_choice_names_tools_of_any_kind() -> None:
    strict = {**FUNCTION, "parameters": {"type": "object", "additionalProperties": False}}
    space = {**SPACE, "tools": [strict]}
    async with open_client(behaviour={"random": True}) as client:
        for choice in (
            {"type": "function", "name": "weather", "namespace": "agents"},
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [
                    {"type": "function", "name": "weather", "namespace": "agents"},
                    {"type": "web_search"},
                ],
            },
        ):
            answer = await created(
                client, tools=[space], tool_choice=choice, parallel_tool_calls=False, temperature=1.0
            )
            assert answer["output"][0]["namespace"] == "agents"
        choice = {"type": "custom", "name": "patch"}
        answer = await created(
            client, tools=[PATCH], tool_choice=choice, temperature=1.0, max_output_tokens=2000
        )
        assert answer["output"][0]["type"] == "custom_tool_call"


async def test_calls_and_outputs_of_custom_tools_are_history() -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": "+a"},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "Done."},
    ]
    as_function = [
        turns[0],
        {"type": "function_call", "call_id": "a", "name": "patch", "arguments": '{"input": "+a"}'},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "Done."}]},
    ]
    async with open_client() as client:
        assert await count(client, input=turns) == await count(client, input=as_function)
        named = {**as_function[1], "name": "weather", "namespace": "agents"}
        tools = [SPACE, FUNCTION]
        apart = await count(client, input=[turns[0], named], tools=tools)
        assert apart == await count(
            client, input=[turns[0], {**named, "name": "agents.weather", "namespace": None}], tools=tools
        )


async def test_the_model_is_told_of_namespaces_and_grammars() -> None:
    async with open_client() as client:
        plain = await count(client, tools=[FUNCTION])
        space = {"type": "namespace", "name": "agents", "tools": [FUNCTION]}
        assert await count(client, tools=[space]) == plain
        assert await count(client, tools=[{**space, "description": "Helpers."}]) >= plain + len("Helpers.")
        rules = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
        without = await count(client, tools=[{**PATCH, "format": {"type": "text"}}])
        assert await count(client, tools=[{**PATCH, "format": rules}]) > without + len('start: "a"')


async def test_a_search_of_the_web_is_left_out_and_told() -> None:
    search = {"type": "web_search", "external_web_access": False}
    async with open_client() as client:
        response = await client.post("/responses", json={"input": "Hi", "tools": [FUNCTION, search]})
        assert response.headers["x-ignored-parameters"] == "tools.1"
        assert response.json()["tools"] == [FUNCTION]
        assert await count(client, tools=[search]) == await count(client)
        for tools in ([search], []):
            assert (await error_of(client, tools=tools, tool_choice="required"))["param"] == "tool_choice"
        chosen = {"type": "web_search"}
        assert (await error_of(client, tools=[search], tool_choice=chosen))["param"] == "tool_choice.type"
    async with open_client(strict_parameters=True) as client:
        assert (await error_of(client, tools=[FUNCTION, search]))["param"] == "tools.1"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "code_interpreter"}]}, "tools.0.type"),
    ({"tools": [{"type": ["web_search"]}]}, "tools.0.type"),
    ({"tools": [{"type": "web_search"}, 5]}, "tools.1"),
    ({"tools": [{"type": "web_search"}, {"type": "function", "name": "a b"}]}, "tools.1.name"),
    ({"tools": [FUNCTION, FUNCTION]}, "tools.1.name"),
    ({"tools": [{**FUNCTION, "name": "tools.999"}] * 2}, "tools.1.name"),
    ({"tools": [{**FUNCTION, "name": f"tools.{'9' * 58}"}] * 2}, "tools.1.name"),
    ({"tools": [{"type": "namespace", "tools": []}]}, "tools.0.name"),
    ({"tools": [{"type": "namespace", "name": "a"}]}, "tools.0.tools"),
    ({"tools": [{**SPACE, "tools": [5]}]}, "tools.0.tools.0"),
    ({"tools": [{**SPACE, "tools": [SPACE]}]}, "tools.0.tools.0.type"),
    ({"tools": [{**SPACE, "tools": [{"type": "function"}]}]}, "tools.0.tools.0.name"),
    (
        {"tools": [SPACE, {**SPACE, "name": "b", "tools": [{**FUNCTION, "parameters": 5}]}]},
        "tools.1.tools.0.parameters",
    ),
    ({"tools": [{**SPACE, "name": "x" * 60, "tools": [FUNCTION]}, FUNCTION]}, "tools.0.tools.0.name"),
    ({"tools": [{**SPACE, "tools": [FUNCTION] * 129}]}, "tools"),
    (
        {"tools": [PATCH], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [PATCH] * 129}},
        "tool_choice.tools",
    ),
    ({"tools": [{**PATCH, "name": 5}]}, "tools.0.name"),
    ({"tools": [{**PATCH, "description": 5}]}, "tools.0.description"),
    ({"tools": [{**PATCH, "format": "text"}]}, "tools.0.format"),
    ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "bnf"}}]}, "tools.0.format.syntax"),
    ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "lark"}}]}, "tools.0.format.definition"),
    ({"input": [{"type": "custom_tool_call", "call_id": "a", "name": "f"}]}, "input.0.input"),
    ({"input": [{"type": "custom_tool_call_output", "output": "a"}]}, "input.0.call_id"),
    ({"input": ["Hi", {"type": "item_reference", "id": "msg_none"}]}, "input.0"),
    ({"input": [{"type": "item_reference", "id": "msg_none"}]}, "input.0.id"),
    ({"input": [{"type": "item_reference"}]}, "input.0.id"),
    ({"input": [{"id": "msg_none"}]}, "input.0.id"),
    ({"input": [{}]}, "input.0.id"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[param for _, param in REFUSED])
async def test_errors_name_what_was_sent(fields: dict[str, Any], param: str) -> None:
    async with open_client() as client:
        assert (await error_of(client, **fields))["param"] == param


@pytest.mark.parametrize("form", [{"type": "item_reference"}, {"type": None}, {}])
async def test_an_item_is_what_a_kept_response_has_put_out(form: dict[str, Any]) -> None:
    async with open_client(behaviour={"reply": "Hello."}) as client:
        first = await created(client)
        (item,) = first["output"]
        turns = [
            {"role": "user", "content": "Hi"},
            {**form, "id": item["id"]},
            {"role": "user", "content": "And?"},
        ]
        second = await created(client, input=turns)
        in_full = await count(client, input=[turns[0], item, turns[2]])
        assert second["usage"]["input_tokens"] == in_full
        listed = (await client.get(f"/responses/{second['id']}/input_items?order=asc")).json()["data"]
        assert listed[1] == item
        assert (await error_of(client, input=[*turns, turns[1]]))["param"] == "input.3.id"
        await client.delete(f"/responses/{first['id']}")
        assert (await error_of(client, input=turns))["param"] == "input.1.id"


async def test_nothing_is_found_of_what_is_not_kept_or_is_of_another_key() -> None:
    keys = {"api_key": ("one", "two")}
    async with open_client(**keys, headers={"Authorization": "Bearer one"}) as client:
        for fields in ({"store": False}, {}):
            (item,) = (await created(client, **fields))["output"]
            client.headers["Authorization"] = "Bearer two" if not fields else "Bearer one"
            turns = [{"type": "item_reference", "id": item["id"]}]
            assert (await error_of(client, input=turns))["param"] == "input.0.id"


async def test_items_that_were_put_out_in_the_background_are_found() -> None:
    async with open_client(behaviour={"reply": "Hello."}) as client:
        response_id = (await created(client, background=True))["id"]
        await client.services.responses.get("", response_id).work  # type: ignore[misc]
        (item,) = (await client.get(f"/responses/{response_id}")).json()["output"]
        await created(client, input=[{"type": "item_reference", "id": item["id"]}])
