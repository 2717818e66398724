"""Group `stream`: chat completions as server-sent events."""

from __future__ import annotations

from typing import Any

from llm_serving.cli.conformance.check import Check, Skipped, expect, short
from llm_serving.cli.conformance.reading import FINISH_REASONS, check_usage, content_of, some
from llm_serving.cli.conformance.server import Server
from llm_serving.cli.conformance.sse import DONE, Stream

_SECOND = 1.1
_SIGNS = "日本語 Grüße 😀🎉"
_REPEAT = [{"role": "user", "content": f"Repeat this line exactly, and say nothing else: {_SIGNS}"}]


async def _plain(server: Server) -> Stream:
    return await server.once("stream", server.chat_stream)


async def _counted(server: Server) -> Stream:
    return await server.once(
        "stream with usage", lambda: server.chat_stream(stream_options={"include_usage": True})
    )


async def _whole_text(server: Server) -> str:
    return content_of(await server.once("whole", server.chat))


async def _content_type(server: Server) -> str:
    content_type = (await _plain(server)).content_type
    expect(content_type.split(";")[0].strip() == "text/event-stream", f"Content-Type is '{content_type}'")
    return ""


async def _events(server: Server) -> str:
    stream = await _plain(server)
    expect(not stream.odd_lines, f"a line that belongs to no event: {short(stream.odd_lines[:1])}")
    expect(stream.chunks, "a stream without an event")
    return ""


async def _role_first(server: Server) -> str:
    stream = await _plain(server)
    expect(stream.choices, "no chunk has a choice")
    delta = stream.choices[0]["delta"]
    expect(delta.get("role") == "assistant", f"the first delta is {short(delta)}")
    return ""


async def _same_head(server: Server) -> str:
    stream = await _plain(server)
    _check_heads(stream.chunks)
    if stream.end_s < _SECOND:
        # A clock that is read for each chunk shows in a stream over two of its seconds only.
        story = [{"role": "user", "content": "Tell a long story."}]
        _check_heads((await server.chat_stream(messages=story, max_tokens=300)).chunks)
    return ""


def _check_heads(chunks: list[dict[str, Any]]) -> None:
    first = chunks[0]
    for name, kind in (("id", str), ("object", str), ("created", int), ("model", str)):
        expect(isinstance(first.get(name), kind) and first[name], f"{name} is {first.get(name)!r}")
        others = {chunk.get(name) for chunk in chunks}
        expect(len(others) == 1, f"{name} differs from chunk to chunk: {short(sorted(map(repr, others)))}")
    expect(first["object"] == "chat.completion.chunk", f"object is {first['object']!r}")


async def _finish_reason_null(server: Server) -> str:
    for choice in (await _plain(server)).choices:
        expect("finish_reason" in choice, f"a choice without the key finish_reason: {short(choice)}")
    return ""


async def _finishes_once(server: Server) -> str:
    stream = await _plain(server)
    reasons = stream.finish_reasons()
    expect(len(reasons) == 1, f"finish reasons of the one choice: {reasons}")
    expect(reasons[0] in FINISH_REASONS, f"the finish reason {reasons[0]!r}")
    ends = [i for i, choice in enumerate(stream.choices) if choice.get("finish_reason") is not None]
    late = [choice for choice in stream.choices[ends[0] + 1 :] if choice["delta"].get("content")]
    expect(not late, f"text behind the finish reason: {short(late[:1])}")
    return ""


async def _finishes_apart(server: Server) -> str:
    for choice in (await _plain(server)).choices:
        if choice.get("finish_reason") is not None:
            expect(not choice["delta"].get("content"), f"text beside the finish reason: {short(choice)}")
    return ""


async def _done_last(server: Server) -> str:
    events = (await _plain(server)).events
    expect(events.count(DONE) == 1, f"{events.count(DONE)} × data: [DONE]")
    expect(events[-1] == DONE, f"behind data: [DONE] comes {short(events[-1])}")
    return ""


async def _pieces(server: Server) -> str:
    stream = await _plain(server)
    some(stream.text())
    pieces = sum(1 for delta in stream.deltas() if delta.get("content"))
    expect(pieces > 1, f"the whole answer came in one chunk, after {stream.end_s:.2f} s")
    return ""


async def _no_usage(server: Server) -> str:
    told = [chunk for chunk in (await _plain(server)).chunks if chunk.get("usage") is not None]
    expect(not told, f"a chunk with usage: {short(told[:1])}")
    return ""


async def _usage_chunk(server: Server) -> str:
    stream = await _counted(server)
    told = [chunk for chunk in stream.chunks if chunk.get("usage") is not None]
    expect(len(told) == 1, f"{len(told)} chunks have usage")
    expect(stream.chunks[-1] is told[0], f"the last chunk is {short(stream.chunks[-1])}")
    expect(told[0].get("choices") == [], f"choices of the usage chunk: {short(told[0].get('choices'))}")
    check_usage(told[0]["usage"])
    return ""


async def _usage_counts(server: Server) -> str:
    stream = await _counted(server)
    streamed = next((chunk["usage"] for chunk in reversed(stream.chunks) if chunk.get("usage")), None)
    if streamed is None:
        raise Skipped("the stream has no usage")
    whole = (await server.once("whole", server.chat))["usage"]
    for name in ("prompt_tokens", "completion_tokens"):
        expect(streamed.get(name) == whole[name], f"{name}: {streamed.get(name)}, not streamed {whole[name]}")
    return ""


async def _same_text(server: Server) -> str:
    streamed = (await _plain(server)).text()
    whole = await _whole_text(server)
    if streamed != whole:
        # A prompt that was computed before may round differently, and that is not the stream's fault.
        again = content_of(await server.chat())
        expect(streamed == again, f"streamed {short(streamed)!r}, not streamed {short(whole)!r}")
    return ""


async def _whole_characters(server: Server) -> str:
    form = {"type": "json_schema", "json_schema": {"name": "line", "schema": {"enum": [_SIGNS]}}}
    for fields in ({}, {"response_format": form}):
        stream = await server.chat_stream(may_refuse=True, messages=_REPEAT, max_tokens=60, **fields)
        text = stream.text()
        is_cut = stream.finish_reasons() == ["length"]
        seen = text.rstrip("\ufffd") if is_cut else text
        expect("\ufffd" not in seen, f"characters in pieces: {short(text)!r}")
        if not seen.isascii():
            return ""
    raise Skipped("the model said nothing but ASCII")


async def _stop_hidden(server: Server) -> str:
    whole = await _whole_text(server)
    if len(whole) < 16:
        raise Skipped(f"the answer is too short to be stopped in: {whole!r}")
    at = len(whole) // 2 - 2
    stop = whole[at : at + 5]
    expected = whole[: whole.find(stop)]
    stream = await server.chat_stream(stop=[stop])
    seen = stream.text()
    expect(stop not in seen, f"the stop string {stop!r} in {short(seen)!r}")
    if not whole.startswith(seen):
        raise Skipped("answers do not repeat, see limits")
    expect(seen == expected, f"stopped by {stop!r} behind {short(seen)!r}, not behind {short(expected)!r}")
    expect(stream.finish_reasons() == ["stop"], f"finish reasons {stream.finish_reasons()}")
    return ""


async def _pace(server: Server) -> str:
    stream = await server.chat_stream(messages=[{"role": "user", "content": "Tell a story. " * 100}])
    return (
        f"headers after {stream.headers_s * 1e3:.0f} ms, first event {stream.first_s * 1e3:.0f} ms, "
        f"end {stream.end_s * 1e3:.0f} ms"
    )


_CHUNKS = "OpenAI API reference, chat completions, the chunk object"
_STREAM = "OpenAI API reference, chat completions, stream"
_OPTIONS = "OpenAI API reference, chat completions, stream_options"
CHECKS = (
    Check("content type", "The answer is text/event-stream.", _STREAM, _content_type),
    Check("events", "Every event is a JSON object, and nothing stands between events.", _STREAM, _events),
    Check("role first", "The first chunk has the role assistant.", _CHUNKS, _role_first),
    Check("same head", "Every chunk has the same id, object, created and model.", _CHUNKS, _same_head),
    Check(
        "finish_reason null",
        "Every choice has the key finish_reason, null until the last chunk.",
        "typed clients (Java, Go, Rust) that fail where the key is missing",
        _finish_reason_null,
    ),
    Check("finishes once", "There is one finish_reason, and no text behind it.", _CHUNKS, _finishes_once),
    Check(
        "finishes apart",
        "The chunk with the finish_reason has no text.",
        "OpenAI API reference, the end of a stream; clients that stop reading at it lose the last word",
        _finishes_apart,
    ),
    Check("[DONE] last", "data: [DONE] is the last event, and comes once.", _STREAM, _done_last),
    Check(
        "in pieces",
        "The answer comes as it is made, not all at once.",
        "servers and proxies that collect the stream",
        _pieces,
    ),
    Check("no usage unasked", "Without stream_options no chunk has usage.", _OPTIONS, _no_usage),
    Check(
        "usage chunk",
        "With include_usage the last chunk, and no other, has usage, and no choices.",
        _OPTIONS,
        _usage_chunk,
    ),
    Check("usage counts", "A stream's usage is that of the same answer unstreamed.", _OPTIONS, _usage_counts),
    Check(
        "same text",
        "The pieces add up to the unstreamed answer, at temperature 0.",
        "detokenizers that lose or double a space in streams",
        _same_text,
    ),
    Check(
        "whole characters",
        "Characters of several bytes are never cut in two.",
        "emoji and Chinese that arrive as U+FFFD from servers that decode token by token",
        _whole_characters,
    ),
    Check(
        "stop hidden",
        "A stop string over several tokens ends the stream just before it, and no part of it is shown.",
        "OpenAI API reference, chat completions, stop",
        _stop_hidden,
    ),
    Check("pace", "Headers leave at once.", "clients and proxies with a timeout", _pace, is_info=True),
)
