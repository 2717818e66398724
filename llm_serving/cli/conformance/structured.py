"""Group `structured`: JSON of a given form, and functions that the model calls."""

from __future__ import annotations

import json
from typing import Any

from llm_serving.cli.conformance.check import Check, Failed, Skipped, expect, short
from llm_serving.cli.conformance.reading import content_of
from llm_serving.cli.conformance.server import Server

# Finite forms: the smallest model that is bound to them comes to an end.
_SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"type": "string", "enum": ["red", "green", "blue"]},
        "sure": {"type": "boolean"},
        "size": {"type": "integer", "enum": [1, 2, 3]},
    },
    "required": ["colour", "sure", "size"],
    "additionalProperties": False,
}
_CITIES = ["Paris", "Rome"]
_ASKED = [{"role": "user", "content": "Which colour is grass? Answer in JSON."}]
_WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
_FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA, "strict": True}}


def _tool(name: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": _CITIES}},
        "required": ["city"],
        "additionalProperties": False,
    }
    function = {"name": name, "description": f"Get the {name[4:]} of a city.", "parameters": parameters}
    return {"type": "function", "function": {**function, "strict": True}}


_TOOLS = [_tool("get_weather"), _tool("get_time")]
_CALLING: dict[str, Any] = {"messages": _WEATHER, "max_tokens": 200, "tools": _TOOLS}
_REQUIRED: dict[str, Any] = {**_CALLING, "tool_choice": "required", "parallel_tool_calls": False}


def _whole(reason: str, text: str) -> None:
    if reason == "length":
        raise Skipped(f"max_tokens ended the answer: {short(text, 60)!r}")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failed(f"no JSON ({error}): {short(text)!r}") from None


def _check_schema(text: str) -> None:
    value = _parsed(text)
    expect(
        isinstance(value, dict) and set(value) == {"colour", "sure", "size"}, f"not of the schema: {text!r}"
    )
    is_valid = (
        value["colour"] in ("red", "green", "blue")
        and isinstance(value["sure"], bool)
        and type(value["size"]) is int
        and 1 <= value["size"] <= 3
    )
    expect(is_valid, f"not of the schema: {text!r}")


async def _json_object(server: Server) -> str:
    answer = await server.chat(
        may_refuse=True, messages=_ASKED, max_tokens=200, response_format={"type": "json_object"}
    )
    text = content_of(answer)
    _whole(answer["choices"][0]["finish_reason"], text)
    expect(isinstance(_parsed(text), dict), f"no object: {short(text)!r}")
    return ""


async def _json_schema(server: Server) -> str:
    answer = await server.chat(may_refuse=True, messages=_ASKED, max_tokens=200, response_format=_FORM)
    text = content_of(answer)
    _whole(answer["choices"][0]["finish_reason"], text)
    _check_schema(text)
    return ""


async def _json_schema_streamed(server: Server) -> str:
    stream = await server.chat_stream(may_refuse=True, messages=_ASKED, max_tokens=200, response_format=_FORM)
    _whole("".join(stream.finish_reasons()), stream.text())
    _check_schema(stream.text())
    return ""


async def _required(server: Server) -> dict[str, Any]:
    return await server.once("required call", lambda: server.chat(may_refuse=True, **_REQUIRED))


def _calls(answer: dict[str, Any]) -> list[dict[str, Any]]:
    choice = answer["choices"][0]
    calls = choice["message"].get("tool_calls")
    if not calls and not content_of(answer):
        _whole(choice["finish_reason"], "")  # thoughts only
    expect(isinstance(calls, list) and calls, f"no call: {short(choice['message'])}")
    return list(calls)


async def _made_calls(server: Server) -> list[dict[str, Any]]:
    """Those of the required call. Raises: Skipped if there are none, which is another check's matter."""
    try:
        return _calls(await _required(server))
    except Failed:
        raise Skipped("no call was made where one was required") from None


async def _call_required(server: Server) -> str:
    names = {tool["function"]["name"] for tool in _TOOLS}
    for call in _calls(await _required(server)):
        expect(call.get("type") == "function" and call["function"]["name"] in names, f"a call {short(call)}")
    return ""


async def _call_arguments(server: Server) -> str:
    for call in await _made_calls(server):
        arguments = call["function"]["arguments"]
        expect(isinstance(arguments, str), f"arguments are no text: {short(arguments)}")
        value = _parsed(arguments)
        expect(isinstance(value, dict) and value.get("city") in _CITIES, f"arguments {short(arguments)}")
    return ""


async def _call_ids(server: Server) -> str:
    calls = [*await _made_calls(server), *_calls(await server.chat(may_refuse=True, **_REQUIRED))]
    ids = [call.get("id") for call in calls]
    expect(all(isinstance(call_id, str) and call_id for call_id in ids), f"ids {ids}")
    expect(len(set(ids)) == len(ids), f"the same id twice: {ids}")
    return ""


async def _call_finish(server: Server) -> str:
    await _made_calls(server)
    answer = await _required(server)
    reason = answer["choices"][0]["finish_reason"]
    _whole(reason, content_of(answer))
    expect(reason == "tool_calls", f"finish_reason {reason!r}")
    return ""


async def _call_named(server: Server) -> str:
    choice = {"type": "function", "function": {"name": "get_time"}}
    answer = await server.chat(may_refuse=True, **_CALLING, tool_choice=choice)
    names = [call["function"]["name"] for call in _calls(answer)]
    expect(set(names) == {"get_time"}, f"calls of {names}")
    reason = answer["choices"][0]["finish_reason"]
    expect(reason in ("stop", "tool_calls"), f"finish_reason {reason!r}")
    return ""


async def _call_streamed(server: Server) -> str:
    stream = await server.chat_stream(may_refuse=True, **_REQUIRED)
    reasons = stream.finish_reasons()
    whole = [call["function"] for call in await _made_calls(server)]
    calls: dict[int, dict[str, str]] = {}
    for delta in stream.deltas():
        for piece in delta.get("tool_calls") or []:
            expect(isinstance(piece.get("index"), int), f"a delta without an index: {short(piece)}")
            function = piece.get("function") or {}
            call = calls.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
            call["id"] = call["id"] or piece.get("id") or ""
            call["name"] = call["name"] or function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
    expect(calls, f"no call in the stream: {short(stream.text())!r}")
    expect(all(call["id"] for call in calls.values()), f"a call without an id: {short(calls)}")
    if not all(isinstance(call["arguments"], str) for call in whole):
        raise Skipped("arguments that are no text, see call arguments")
    streamed = [(calls[i]["name"], _parsed(calls[i]["arguments"])) for i in sorted(calls)]
    expected = [(call["name"], _parsed(call["arguments"])) for call in whole]
    expect(streamed == expected, f"streamed {short(streamed)}, not streamed {short(expected)}")
    expect(reasons == ["tool_calls"], f"finish reasons {reasons}")
    return ""


async def _call_none(server: Server) -> str:
    answer = await server.chat(may_refuse=True, **{**_CALLING, "max_tokens": 24}, tool_choice="none")
    calls = answer["choices"][0]["message"].get("tool_calls")
    expect(not calls, f"calls {short(calls)}")
    return ""


async def _call_result(server: Server) -> str:
    call = {"id": "call_1", "type": "function"}
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    messages = [
        *_WEATHER,
        {"role": "assistant", "content": None, "tool_calls": [{**call, "function": function}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees."},
    ]
    answer = await server.chat(may_refuse=True, **{**_CALLING, "messages": messages, "max_tokens": 24})
    message = answer["choices"][0]["message"]
    expect(message.get("role") == "assistant", f"the message is {short(message)}")
    return ""


_FORMAT = "OpenAI API reference, chat completions, response_format"
_CHOICE = "OpenAI API reference, chat completions, tool_choice"
_GUIDE = "OpenAI's guide to function calling"
CHECKS = (
    Check("json_object", "The answer is a JSON object.", _FORMAT, _json_object),
    Check("json_schema", "The answer is valid against the schema.", _FORMAT, _json_schema),
    Check("json_schema streamed", "So is a streamed one.", _FORMAT, _json_schema_streamed),
    Check(
        "call required", "tool_choice: required gives a call of a known function.", _CHOICE, _call_required
    ),
    Check("call arguments", "Arguments are a text of JSON, and valid if strict.", _GUIDE, _call_arguments),
    Check(
        "call ids",
        "Every call has an id of its own, also from answer to answer.",
        "agents that find results by the id, and servers that always say call_0",
        _call_ids,
    ),
    Check("call finish", "A call ends with the finish_reason tool_calls.", _GUIDE, _call_finish),
    Check(
        "call named",
        "A named function is called, with the finish_reason stop or tool_calls.",
        _CHOICE,
        _call_named,
    ),
    Check(
        "call streamed",
        "Deltas of a call have an index and an id, add up to the unstreamed call, and end with tool_calls.",
        "OpenAI's guide to function calling, streaming",
        _call_streamed,
    ),
    Check("call none", "tool_choice: none gives no call.", _CHOICE, _call_none),
    Check("call result", "A call and its result in the history are answered.", _GUIDE, _call_result),
)
