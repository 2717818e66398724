"""Group `robustness`: clients that leave, crowd or dawdle."""

from __future__ import annotations

import asyncio
from typing import Any

from llm_serving.cli.conformance.check import Check, Skipped, expect, short
from llm_serving.cli.conformance.reading import content_of, some
from llm_serving.cli.conformance.server import CHAT, Answer, Server

_CROWD = 16
_LEAVERS = 4
_DAWDLE_S = 0.05
_LONG: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 400}


async def _leave(server: Server) -> str:
    for _ in range(_LEAVERS):
        await server.stream(CHAT, server.chat_body(**_LONG), leave_after=2)
    answer = await server.chat()
    expect(isinstance(content_of(answer), str), short(answer))
    return ""


async def _leave_unread(server: Server) -> str:
    """Cancelled before anything is read, as a browser does when its tab is closed."""
    body = server.chat_body(**_LONG)
    task = asyncio.ensure_future(server.ask("POST", CHAT, body))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await server.chat()
    return ""


async def _crowd(server: Server) -> list[Answer]:
    bodies = [
        server.chat_body(messages=[{"role": "user", "content": f"Say the number {i}."}], max_tokens=8)
        for i in range(_CROWD)
    ]
    return await asyncio.gather(*(server.ask("POST", CHAT, body) for body in bodies))


async def _all_answered(server: Server) -> str:
    answers = await server.once("crowd", lambda: _crowd(server))
    for answer in answers:
        # Official clients try again after a 429 that says when.
        is_fair = answer.status == 200 or (answer.status == 429 and "retry-after" in answer.headers)
        expect(is_fair, str(answer))
    return f"{sum(answer.status == 200 for answer in answers)} of {_CROWD} answered at once"


async def _own_ids(server: Server) -> str:
    answers = await server.once("crowd", lambda: _crowd(server))
    ids = [answer.json()["id"] for answer in answers if answer.status == 200]
    if len(ids) < 2:
        raise Skipped("fewer than two were answered")
    expect(len(set(ids)) == len(ids), f"{len(ids)} answers have {len(set(ids))} ids")
    return ""


async def _slow_reader(server: Server) -> str:
    fast = some((await server.once("stream", server.chat_stream)).text())

    async def dawdle() -> None:
        await asyncio.sleep(_DAWDLE_S)

    stream = await server.stream(CHAT, server.chat_body(), pause=dawdle)
    if stream.text() != fast:
        again = (await server.chat_stream()).text()
        expect(stream.text() == again, f"read slowly {short(stream.text())!r}, fast {short(fast)!r}")
    return ""


async def _still_there(server: Server) -> str:
    await server.chat(max_tokens=1)
    return ""


CHECKS = (
    Check(
        "left in the middle",
        "Clients that leave a stream do not harm the next request.",
        "generations that go on for nobody until the slots are full",
        _leave,
    ),
    Check(
        "left before the answer",
        "Nor do those that leave before the answer.",
        "the same, of requests without stream",
        _leave_unread,
    ),
    Check(
        "sixteen at once",
        "All are answered, or refused with 429 and Retry-After.",
        "servers that lose requests under load",
        _all_answered,
    ),
    Check("ids of their own", "Every answer has its own id.", "OpenAI API reference, the object", _own_ids),
    Check(
        "slow reader",
        "A client that reads slowly gets the same text.",
        "servers that drop what a full buffer does not take",
        _slow_reader,
    ),
    Check("still there", "After all this the server answers.", "common sense", _still_there),
)
