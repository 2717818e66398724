"""Functions over HTTP, in process: a scripted model that calls them, and one that babbles under a grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import Client, data_of, open_client

from llm_serving.api.convert.tool_calls import CallReader
from llm_serving.chat.notations.hermes import HERMES
from llm_serving.chat.tools import Tool

pytestmark = pytest.mark.anyio

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 5}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "time")
]
ASKED: dict[str, Any] = {
    "messages": [{"content": "Hi"}],
    "tools": TOOLS,
    "temperature": 1.0,
    "max_tokens": 1000,
}


def written(name: str = "time", **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


async def choice_of(client: Client, **fields: Any) -> dict[str, Any]:
    response = await client.post("/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


async def streamed(client: Client, **fields: Any) -> tuple[str, list[dict[str, Any]], str]:
    """(content, calls, finish reason) of a stream."""
    response = await client.post("/chat/completions", json={**ASKED, "stream": True, **fields})
    content, calls, reason = "", [], ""
    for chunk in data_of(response.text)[:-1]:
        choice = chunk["choices"][0]
        content += choice["delta"].get("content") or ""
        calls += choice["delta"].get("tool_calls", [])
        reason = choice["finish_reason"] or reason
    return content, calls, reason


def plain(calls: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    assert len({call["id"] for call in calls}) == len(calls)
    assert {call["type"] for call in calls} == {"function"}
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


ANSWERS = {
    "one": (written(city="Rome"), None, [("time", {"city": "Rome"})]),
    "two": (
        f"{written(city='Rome')}\n{written('weather', city='Bonn')}\n",
        None,
        [("time", {"city": "Rome"}), ("weather", {"city": "Bonn"})],
    ),
    "text before": (f"Let me see. \n{written(city='x')}", "Let me see.", [("time", {"city": "x"})]),
    "text behind": (f"{written(city='x')} There.", " There.", [("time", {"city": "x"})]),
    "no end": (written(city="x").removesuffix("</tool_call>"), None, [("time", {"city": "x"})]),
    "no arguments": ('<tool_call>{"name": "time"}</tool_call>', None, [("time", {})]),
    "tags": (
        "Hm.\n<tool_call>\n<function=time>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
        "Hm.",
        [("time", {"city": "Rome"})],
    ),
}
NO_CALLS = {
    "text": "Hello, world! ",
    "no json": "<tool_call>\n{oops\n</tool_call>",
    "unknown": written("nothing", city="x"),
    "no object": '<tool_call>{"name": "time", "arguments": "x"}</tool_call>',
    "open": "a <tool_call> b",
    "beginning": "a <tool",
    "only an end": "a </tool_call>",
    "a list": "<tool_call>[1]</tool_call>",
    "a list as name": '<tool_call>{"name": ["time"], "arguments": {}}</tool_call>',
    "deeper than a client may send back": '<tool_call>{"name": "time", "arguments": {"a": %s}}</tool_call>'
    % ("[" * 65 + "5" + "]" * 65),
    "deeper than JSON is written": '<tool_call>{"name": "time", "arguments": {"a": %s}}</tool_call>'
    % ("[" * 300 + "]" * 300),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_calls_are_read(case: str) -> None:
    reply, content, calls = ANSWERS[case]
    async with open_client(behaviour={"reply": reply}) as client:
        choice = await choice_of(client)
        assert choice["message"]["content"] == content
        assert plain(choice["message"]["tool_calls"]) == calls
        assert choice["finish_reason"] == "tool_calls"
        text, parts, reason = await streamed(client)
        assert text == (content or "")
        assert plain(parts) == calls
        assert [part["index"] for part in parts] == list(range(len(calls)))
        assert reason == "tool_calls"


@pytest.mark.parametrize("case", NO_CALLS)
async def test_what_is_no_valid_call_is_content(case: str) -> None:
    reply = NO_CALLS[case]
    async with open_client(behaviour={"reply": reply}) as client:
        choice = await choice_of(client)
        assert choice["message"] == {"role": "assistant", "content": reply}
        assert choice["finish_reason"] == "stop"
        assert await streamed(client) == (reply, [], "stop")


async def test_nobody_looks_for_calls_where_there_are_no_functions() -> None:
    async with open_client(behaviour={"reply": written(city="x")}) as client:
        for fields in ({"tools": None}, {"tools": []}, {"tool_choice": "none"}):
            choice = await choice_of(client, **fields)
            assert choice["message"] == {"role": "assistant", "content": written(city="x")}


async def test_one_call_at_most_if_so_asked() -> None:
    reply = f"{written(city='a')}\n{written(city='b')}"
    async with open_client(behaviour={"reply": reply}) as client:
        choice = await choice_of(client, parallel_tool_calls=False)
        assert plain(choice["message"]["tool_calls"]) == [("time", {"city": "a"})]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
def test_calls_are_read_however_the_text_is_cut(chunk: int) -> None:
    for text, content, calls in [*ANSWERS.values(), *((reply, reply, []) for reply in NO_CALLS.values())]:
        reader = CallReader({name: Tool(name, "", {}) for name in ("time", "weather")}, HERMES, many=True)
        shown, found = "", []
        for start in range(0, len(text), chunk):
            more, new = reader.feed(text[start : start + chunk], is_last=start + chunk >= len(text))
            shown, found = shown + more, found + new
        assert shown == (content or "")
        assert [(call.name, json.loads(call.arguments)) for call in found] == calls


NAMED = {"type": "function", "function": {"name": "weather"}}
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "time"}}]},
}


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", ("time", "weather")), (NAMED, ("weather",)), (ALLOWED, ("time",))],
    ids=str,
)
async def test_a_call_that_must_be_is_bound_by_a_grammar(choice: Any, names: tuple[str, ...]) -> None:
    async with open_client(behaviour={"random": True}) as client:
        for seed in range(3):
            asked = {"tool_choice": choice, "seed": seed, "parallel_tool_calls": False}
            answer = await choice_of(client, **asked)
            ((name, arguments),) = plain(answer["message"]["tool_calls"])
            assert name in names
            assert set(arguments) == {"city"}
            assert answer["finish_reason"] == "tool_calls"
            text, calls, _ = await streamed(client, **asked)
            assert text == ""
            assert plain(calls) == [(name, arguments)]


async def test_strict_functions_bind_calls_and_leave_text_free() -> None:
    strict = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]  # type: ignore[dict-item]
    async with open_client(behaviour={"reply": "No call at all."}) as client:
        assert (await choice_of(client, tools=strict))["message"]["content"] == "No call at all."
    async with open_client(behaviour={"reply": f"So: {written('weather', town='Rome')}"}) as client:
        answer = await choice_of(client, tools=strict, parallel_tool_calls=False)
        ((name, arguments),) = plain(answer["message"]["tool_calls"])
        assert name in {"weather", "time"}
        assert set(arguments) == {"city"}
        assert answer["message"]["content"] == "So:"


async def test_the_model_is_told_of_functions_and_results(client: Client) -> None:
    history = [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "time", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    counts = []
    for fields in ({"tools": []}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "none"}):
        body = {**ASKED, "messages": history, **fields}
        count = (await client.post("/chat/completions/input_tokens", json=body)).json()["input_tokens"]
        completion = (await client.post("/chat/completions", json=body)).json()
        assert completion["usage"]["prompt_tokens"] == count
        counts.append(count)
    assert counts[0] == counts[2] < counts[1] - 200
    prompt = (await client.post("/apply-template", json={"messages": history})).json()["prompt"]
    assert "<tool_response>\nnoon\n</tool_response>" in prompt


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x"}}},
         "tool_choice.allowed_tools.mode"),
        ({"tool_choice": "required", "regex": "a"}, "regex"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}],
          "tool_choice": "required"}, "tools"),
    ],
)  # fmt: skip
async def test_what_is_refused(client: Client, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith(param)


async def test_schemas_that_refer_to_themselves() -> None:
    """As pydantic writes those of nested classes."""
    place = {
        "type": "object",
        "properties": {"zip": {"enum": ["1", "2"]}},
        "required": ["zip"],
        "additionalProperties": False,
    }
    parameters = {
        "type": "object",
        "$defs": {"Place": place},
        "properties": {"place": {"$ref": "#/$defs/Place"}},
        "required": ["place"],
        "additionalProperties": False,
    }  # fmt: skip
    other = {"type": "object", "properties": {"$ref": {"const": "x"}}, "additionalProperties": False}
    functions = [{"name": "go", "parameters": parameters}, {"name": "stay", "parameters": other}]
    tools = [{"type": "function", "function": function} for function in functions]
    async with open_client(behaviour={"random": True}) as client:
        for seed in range(4):
            answer = await choice_of(
                client, tools=tools, tool_choice="required", parallel_tool_calls=False, seed=seed
            )
            ((name, arguments),) = plain(answer["message"]["tool_calls"])
            if name == "go":
                assert arguments["place"]["zip"] in ("1", "2")


DEEP = '{"a":' * 900 + "1" + "}" * 900
CALL = '{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": DEEP}}]}'


@pytest.mark.parametrize(
    "field",
    [
        '"response_format": {"type": "json_schema", "json_schema": {"schema": DEEP}}',
        '"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}]',
        '"tool_choice": DEEP',
        '"chat_template_kwargs": DEEP',
        '"logit_bias": DEEP',
        f'"messages": [{CALL}]',
    ],
)
async def test_deep_json_is_a_400(client: Client, field: str) -> None:
    body = '{"messages": [{"content": "Hi"}], ' + field.replace("DEEP", DEEP) + "}"  # the last name counts
    response = await client.post("/chat/completions", content=body)
    assert response.status_code == 400, response.text
