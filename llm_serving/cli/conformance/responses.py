"""Group `responses`: OpenAI's newer route."""

from __future__ import annotations

from typing import Any

from llm_serving.cli.conformance.check import Check, Skipped, expect, short
from llm_serving.cli.conformance.server import Server

_PATH = "/responses"
_GUIDE = "OpenAI API reference, responses"


def _body(server: Server, **fields: Any) -> dict[str, Any]:
    if not server.model:
        raise Skipped("no model here answers")
    given = "Count from one to twenty in words, with commas."
    base = {"model": server.model, "input": given, "temperature": 0, "max_output_tokens": 24, "store": False}
    return {**base, **fields}


async def _plain(server: Server) -> dict[str, Any]:
    return await server.once("response", lambda: server.post(_PATH, _body(server), may_refuse=True))


def _text(response: dict[str, Any]) -> str:
    return "".join(
        part.get("text") or ""
        for item in response["output"]
        if item.get("type") == "message"
        for part in item["content"]
        if part.get("type") == "output_text"
    )


async def _shape(server: Server) -> str:
    response = await _plain(server)
    expect(response.get("object") == "response", f"object is {response.get('object')!r}")
    expect(response.get("status") in ("completed", "incomplete"), f"status is {response.get('status')!r}")
    expect(
        isinstance(response.get("output"), list) and response["output"], f"output is {response.get('output')}"
    )
    usage = response.get("usage") or {}
    counts: list[Any] = [usage.get(name, -1) for name in ("input_tokens", "output_tokens", "total_tokens")]
    expect(all(type(count) is int and count >= 0 for count in counts), f"usage is {short(usage)}")
    expect(counts[0] + counts[1] == counts[2], f"usage does not add up: {short(usage)}")
    return ""


async def _streamed(server: Server) -> str:
    await _plain(server)
    events = (await server.stream(_PATH, _body(server))).chunks
    kinds = [event.get("type") for event in events]
    expect(kinds[:1] == ["response.created"], f"the first event is {kinds[:1]}")
    expect(kinds[-1] in ("response.completed", "response.incomplete"), f"the last event is {kinds[-1]}")
    for event in events:
        expect("sequence_number" in event, f"an event without sequence_number: {short(event)}")
    numbers = [event["sequence_number"] for event in events]
    counted = list(range(numbers[0], numbers[0] + len(numbers)))
    expect(numbers == counted, f"sequence numbers {short(numbers)}")
    pieces = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    text = _text(events[-1]["response"])
    expect("".join(pieces) == text, f"deltas say {short(''.join(pieces))!r}, the end {short(text)!r}")
    return ""


async def _bad(server: Server) -> str:
    await _plain(server)
    answer = await server.ask("POST", _PATH, _body(server, input=5), until_head=True)
    expect(answer.status == 400, str(answer) if answer.status != 200 else "status 200")
    return ""


async def _unknown_previous(server: Server) -> str:
    await _plain(server)
    body = _body(server, previous_response_id="resp_none_such")
    answer = await server.ask("POST", _PATH, body, until_head=True)
    said = "status 200: the conversation that was meant is not known, and nobody hears of it"
    expect(answer.status in (400, 404), str(answer) if answer.status != 200 else said)
    return ""


CHECKS = (
    Check("shape", "A response with status, output and usage.", f"{_GUIDE}, the object", _shape),
    Check(
        "streamed", "Events are numbered, and deltas add up to the text.", f"{_GUIDE}, streaming", _streamed
    ),
    Check("wrong input", "An input of a wrong type is a 400.", f"{_GUIDE}, input", _bad),
    Check(
        "unknown previous response",
        "A previous_response_id that is not known is a 400 or 404.",
        f"{_GUIDE}, previous_response_id",
        _unknown_previous,
    ),
)
