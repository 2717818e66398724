"""The line that every request leaves in the log."""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
import pytest
from fake_server import fake_app, open_client, running_server
from patience import PATIENCE_S, until
from starlette.types import Message

from llm_serving.api import request_log
from llm_serving.api.request_log import Line, RequestLog

LINE = Line("POST", "/chat/completions", 200, 0.0123, "abc", {"model": "m", "prompt": 5})


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.endswith("request_log")]


@pytest.mark.anyio
async def test_lines_come_soon_in_order_and_with_their_own_times(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = RequestLog()
    started_s = time.time()
    log.add(logging.INFO, LINE)
    ended_s = time.time()
    log.add(logging.INFO, LINE._replace(path="/a b\n", facts={}))
    log.add(logging.DEBUG, LINE)
    assert not messages(caplog)
    await until(lambda: messages(caplog))
    assert messages(caplog) == [
        "POST /chat/completions 200 12ms id=abc model=m prompt=5",
        "POST /a%20b%0A 200 12ms id=abc",
    ]
    first = caplog.records[0]
    assert started_s <= first.created <= ended_s
    assert first.msecs == pytest.approx(first.created % 1 * 1e3)


def test_a_loop_that_ended_holds_nothing_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = RequestLog()

    async def add(num_written: int) -> None:
        log.add(logging.INFO, LINE)
        await until(lambda: len(messages(caplog)) == num_written)

    with monkeypatch.context() as patch:
        patch.setattr(request_log, "_DELAY_S", 1000.0)
        asyncio.run(add(0))
    asyncio.run(add(2))


def test_a_server_that_stops_writes_its_last_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running_server(fake_app()) as url:
        httpx.post(f"{url}/v1/embeddings", json={"input": ["a", "b"]}, headers={"x-request-id": "me"})
    (line,) = (text for text in messages(caplog) if "id=me" in text)
    assert line.startswith("POST /v1/embeddings 200 ")
    assert line.endswith(" id=me model=fake-embed texts=2 prompt=6")


@pytest.mark.anyio
async def test_all_lines_but_the_last_say_that_more_follow(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = RequestLog()
    for _ in range(3):
        log.add(logging.INFO, LINE)
    log.flush()
    assert [record.has_more for record in caplog.records] == [True, True, False]


@pytest.mark.anyio
async def test_an_answer_that_the_server_cancels_is_no_success(caplog: pytest.LogCaptureFixture) -> None:
    """As Ray does when the client of a stream has left."""
    caplog.set_level(logging.INFO)
    has_begun = asyncio.Event()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b'{"messages": [{"content": "Hi"}], "stream": true}'}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            has_begun.set()
            await asyncio.Event().wait()

    async with open_client() as client:
        headers = [(b"x-request-id", b"me")]
        scope = {"type": "http", "method": "POST", "path": "/chat/completions", "headers": headers}
        answering = asyncio.ensure_future(client.app({**scope, "query_string": b""}, receive, send))
        await asyncio.wait_for(has_begun.wait(), PATIENCE_S)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        await until(lambda: any("id=me" in text for text in messages(caplog)))
    (line,) = (text for text in messages(caplog) if "id=me" in text)
    assert line.startswith("POST /chat/completions 499 ")
