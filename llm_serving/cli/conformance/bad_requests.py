"""Group `errors`: requests that are wrong, and what a client is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_serving.cli.conformance.check import Check, Skipped, expect, short
from llm_serving.cli.conformance.server import ASK, CHAT, Server

_REFERENCE = "OpenAI API reference, chat completions; OpenAI's guide to error codes"
_UNKNOWN = "no-such-model-5f1c"
_LONG_WORDS = 200_000
_NOT_ALL = "silently cut prompts: the model answers without having seen the question"


async def _status(server: Server, body: Mapping[str, Any] | bytes, path: str = CHAT) -> int:
    return (await server.ask("POST", path, body, until_head=True)).status


def _refused(name: str, expected: str, fields: dict[str, Any], *, statuses: Sequence[int] = (400,)) -> Check:
    """A check that these `fields` of a chat are refused; None leaves one out."""

    async def run(server: Server) -> str:
        body = {key: value for key, value in server.chat_body(**fields).items() if value is not None}
        answer = await server.ask("POST", CHAT, body, until_head=True)
        expect(answer.status in statuses, str(answer) if answer.status != 200 else "status 200")
        return ""

    return Check(name, expected, _REFERENCE, run)


def _refused_bytes(name: str, expected: str, body: bytes) -> Check:
    async def run(server: Server) -> str:
        server.chat_body()
        answer = await server.ask("POST", CHAT, body, until_head=True)
        expect(answer.status == 400, str(answer) if answer.status != 200 else "status 200")
        return ""

    return Check(name, expected, _REFERENCE, run)


def _survived(name: str, expected: str, source: str, fields: dict[str, Any]) -> Check:
    """A check that these `fields` are answered or refused, but break nothing."""

    async def run(server: Server) -> str:
        answer = await server.ask("POST", CHAT, server.chat_body(**fields), until_head=True)
        expect(answer.status in (200, 400), str(answer))
        return f"status {answer.status}"

    return Check(name, expected, source, run)


async def _nan(server: Server) -> str:
    body = server.chat_body(temperature=float("nan"))  # Python's writer says NaN, which is no JSON
    status = await _status(server, body)
    expect(status == 400, f"status {status}")
    return ""


async def _error_body(server: Server) -> str:
    answer = await server.ask("POST", CHAT, server.chat_body(messages="text"))
    if answer.status == 200:
        raise Skipped("the request was not refused")
    body = answer.json()
    error: Any = body.get("error") if isinstance(body, dict) else None
    expect(isinstance(error, dict), f"no object 'error' in {answer}")
    for name in ("message", "type"):
        expect(isinstance(error.get(name), str) and error[name], f"error.{name} is {error.get(name)!r}")
    return ""


async def _before_the_stream(server: Server) -> str:
    answer = await server.ask("POST", CHAT, server.chat_body(messages="text", stream=True))
    content_type = answer.headers.get("content-type", "")
    expect(answer.status != 200, f"status 200, {content_type}: {short(answer.body)}")
    expect("json" in content_type, f"Content-Type is '{content_type}'")
    return ""


async def _unknown_model(server: Server) -> str:
    body = server.chat_body(model=_UNKNOWN, max_tokens=1)
    answer = await server.ask("POST", CHAT, body)
    if answer.status == 200:
        named = answer.json().get("model")
        expect(named and named != _UNKNOWN, f"status 200, answered as if by '{_UNKNOWN}'")
        raise Skipped(f"any name is answered by {named}, and the answer says so")
    expect(answer.status in (400, 404), str(answer))
    return ""


async def _too_long(server: Server) -> str:
    words = " ".join("abcdefghij"[i % 10] for i in range(_LONG_WORDS))
    body = server.chat_body(messages=[{"role": "user", "content": words}], max_tokens=1)
    answer = await server.ask("POST", CHAT, body)
    if answer.status == 200:
        count = answer.json()["usage"]["prompt_tokens"]
        expect(count >= _LONG_WORDS, f"{_LONG_WORDS} words were read as {count} tokens, and answered")
        raise Skipped(f"the context holds {count} tokens")
    expect(answer.status in (400, 413), str(answer))
    return ""


async def _no_such_route(server: Server) -> str:
    answer = await server.ask("GET", "/no-such-route")
    expect(answer.status == 404, str(answer))
    return ""


def _history(arguments: str) -> list[dict[str, Any]]:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "5"},
        {"role": "user", "content": "Go on."},
    ]


CHECKS = (
    _refused_bytes("bad JSON", "A body that is no JSON is a 400.", b'{"messages": [{"role": "user", '),
    _refused_bytes("no object", "A body that is a list is a 400.", b"[1, 2]"),
    _refused_bytes("empty body", "No body at all is a 400.", b""),
    _refused("no messages", "A request without messages is a 400.", {"messages": None}),
    _refused("messages no list", "Messages that are a text are a 400.", {"messages": "text"}),
    _refused("message no object", "A message that is a number is a 400.", {"messages": [5]}),
    _refused(
        "unknown role", "An unknown role is a 400.", {"messages": [{"role": "king", "content": "Hello."}]}
    ),
    _refused("temperature text", "A temperature that is a text is a 400.", {"temperature": "hot"}),
    _refused("temperature negative", "A negative temperature is a 400.", {"temperature": -1}),
    Check("NaN", "NaN, which is no JSON, is a 400.", _REFERENCE, _nan),
    _refused("max_tokens text", "max_tokens that are a text are a 400.", {"max_tokens": "five"}),
    _refused("max_tokens negative", "Negative max_tokens are a 400.", {"max_tokens": -5}),
    _refused("top_p over 1", "top_p over 1 is a 400.", {"top_p": 1.5}),
    _refused("n zero", "n: 0 is a 400.", {"n": 0}),
    _refused("stream text", "stream that is a text is a 400.", {"stream": "perhaps"}),
    _refused("stop number", "stop that is a number is a 400.", {"stop": 5}),
    _refused("tools text", "tools that are a text are a 400.", {"tools": "hammer"}),
    _refused("unknown form", "An unknown response_format is a 400.", {"response_format": {"type": "poem"}}),
    Check(
        "error body",
        "A refusal has an object error with message and type.",
        "OpenAI API reference, errors; official clients read them there",
        _error_body,
    ),
    Check(
        "refused before the stream",
        "A wrong request with stream: true is refused by its status, not inside a stream.",
        "clients that look at the status only, and wait for a text",
        _before_the_stream,
    ),
    Check(
        "unknown model",
        "An unknown model is a 404, or the answer names the model that gave it.",
        "OpenAI API reference, error model_not_found",
        _unknown_model,
    ),
    Check("unknown route", "An unknown route is a 404.", "HTTP", _no_such_route),
    _survived(
        "huge max_tokens",
        "A huge max_tokens is bounded or a 400.",
        "servers that reserve memory for it, or divide by what is left",
        {"max_tokens": 10**9, "stream": True},
    ),
    Check(
        "too long a prompt",
        "A prompt over the context is a 400, and never cut unasked; usage tells.",
        _NOT_ALL,
        _too_long,
    ),
    _survived(
        "calls cut short",
        "Function arguments in the history that are no JSON are taken or a 400.",
        "templates that parse arguments and fail with a 500, so that an agent's chat is dead",
        {"messages": _history('{"city": "Par')},
    ),
    _survived(
        "calls no object",
        "Function arguments in the history that are no object are taken or a 400.",
        "the same, after a model wrote nothing or null",
        {"messages": _history("null")},
    ),
    _survived(
        "lone surrogate",
        "Half of a character in a text is taken or a 400.",
        "encoders that fail with a 500 on what a JavaScript client cut in two",
        {"messages": [{"role": "user", "content": "\ud83d"}]},
    ),
    _survived(
        "unknown field",
        "A field that nobody knows is ignored or a 400.",
        "clients that are newer than the server",
        {"field_of_next_year": {"a": [1]}},
    ),
)
