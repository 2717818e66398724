"""Streams on a real socket: first byte, heartbeat, errors in the middle, clients that leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import httpx
import pytest
from fake_server import data_of, fake_app, open_client, running_server, send, text_of
from fastapi import FastAPI
from patience import Gate, wait_until

from llm_serving.engine.protocol import EngineStats

HELLO: dict[str, Any] = {"messages": [{"content": "Hello"}], "stream": True}
ENDLESS = {"max_tokens": 4000, "ignore_eos": True}
SLOW = {"random": True, "step_seconds": 0.01}


def stats_of(app: FastAPI) -> EngineStats:
    return cast(EngineStats, app.state.services.registry.default.get().engine.stats())


def wait_for_idle(app: FastAPI) -> EngineStats:
    wait_until(lambda: not (stats_of(app).num_running or stats_of(app).num_waiting), "the request still runs")
    return stats_of(app)


def test_headers_and_role_leave_before_the_first_token() -> None:
    gate = Gate()
    gate.shut()
    with (
        running_server(fake_app(behaviour={"before_step": gate.pass_})) as url,
        httpx.stream("POST", f"{url}/chat/completions", json={**HELLO, "max_tokens": 1}) as response,
    ):
        pieces = response.iter_text()
        assert response.status_code == 200
        assert '"role":"assistant"' in next(pieces)
        gate.open()
        assert data_of("".join(pieces))[-1] == "[DONE]"


def test_heartbeat_while_nothing_is_produced() -> None:
    gate = Gate()
    gate.shut()
    with (
        running_server(fake_app(behaviour={"before_step": gate.pass_}, heartbeat_s=0.05)) as url,
        httpx.stream("POST", f"{url}/chat/completions", json={**HELLO, "max_tokens": 1}) as response,
    ):
        pieces, text = response.iter_text(), ""
        while text.count(": ping\n\n") < 3:
            text += next(pieces)
        assert text.count("data: ") == 1, "the role, and no token"
        gate.open()
        assert data_of("".join(pieces))[-1] == "[DONE]"


def test_no_heartbeat_while_tokens_flow() -> None:
    """They take longer together than the heartbeat, and each a small part of it."""
    app = fake_app(behaviour={"reply": "x" * 30, "step_seconds": 0.035}, heartbeat_s=1.0)
    with running_server(app) as url:
        response = httpx.post(f"{url}/chat/completions", json=HELLO)
    assert text_of(data_of(response.text)) == "x" * 30
    assert "ping" not in response.text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_client_that_leaves_while_tokens_are_made_ends_its_request(stream: bool, n: int) -> None:
    app = fake_app(behaviour=SLOW)
    with running_server(app) as url:
        body = {**HELLO, **ENDLESS, "stream": stream, "n": n}
        with send(url, "/chat/completions", body) as client:
            wait_until(lambda: stats_of(app).num_running == n)
            assert not stream or client.recv(10)
        stats = wait_for_idle(app)
        assert stats.num_generated_tokens < 1000
        assert stats.num_free_blocks == stats.num_blocks
        assert httpx.post(f"{url}/chat/completions", json={**HELLO, "max_tokens": 1}).status_code == 200


def test_client_that_leaves_does_not_end_others() -> None:
    app = fake_app(behaviour={"reply": "y" * 60, "step_seconds": 0.005})
    with running_server(app) as url:

        def stay() -> str:
            return text_of(data_of(httpx.post(f"{url}/chat/completions", json=HELLO).text))

        async def both() -> str:
            staying = asyncio.create_task(asyncio.to_thread(stay))
            for _ in range(5):
                with send(url, "/chat/completions", {**HELLO, **ENDLESS}):
                    await asyncio.sleep(0.02)
            return await staying

        assert asyncio.run(both()) == "y" * 60


def test_client_that_leaves_in_the_queue_frees_its_place() -> None:
    app = fake_app(behaviour=SLOW, max_concurrency=1, max_queue=1)
    with running_server(app) as url, send(url, "/chat/completions", {**HELLO, **ENDLESS}):
        wait_until(lambda: stats_of(app).num_running)
        with send(url, "/chat/completions", {**HELLO, **ENDLESS}):
            wait_until(lambda: stats_of(app).num_waiting)
            assert httpx.post(f"{url}/chat/completions", json=HELLO).status_code == 429
        wait_until(lambda: not stats_of(app).num_waiting)
        assert stats_of(app).num_running == 1


def test_client_that_does_not_read_gets_everything_in_the_end() -> None:
    app = fake_app(behaviour={"reply": "x" * 500})
    with running_server(app) as url, send(url, "/chat/completions", HELLO) as client:
        wait_for_idle(app)
        received = b""
        while b"[DONE]" not in received:
            chunk = client.recv(1 << 16)
            assert chunk, "the stream broke off"
            received += chunk
    assert received.count(b'"delta":{"content":"x"') == 500


@pytest.mark.anyio
@pytest.mark.parametrize("n", [1, 2])
async def test_error_in_the_middle_is_an_event_and_the_end(n: int) -> None:
    async with open_client(behaviour={"fail_at_step": 5, "step_seconds": 0.005}) as client:
        response = await client.post("/chat/completions", json={**HELLO, "n": n})
        assert response.status_code == 200
        *frames, last = response.text.strip().split("\n\n")
        event, data = last.split("\n")
        assert event == "event: error"
        error = json.loads(data.removeprefix("data: "))["error"]
        assert error["code"] == "engine_dead"
        assert len([frame for frame in frames if '"content":"' in frame]) > n
        assert "[DONE]" not in response.text
        assert (await client.get("/ready")).status_code == 503


@pytest.mark.anyio
async def test_unknown_error_in_the_middle_says_nothing_of_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_client() as client:

        def broken(*args: object) -> bytes:
            raise KeyError("internal detail")

        monkeypatch.setattr("llm_serving.api.convert.frames.ChunkFrames.batch", broken)
        response = await client.post("/chat/completions", json=HELLO)
        assert data_of(response.text)[-1]["error"]["code"] == "internal_error"
        assert "internal detail" not in response.text
        assert "internal detail" in caplog.text
        wait_for_idle(client.app)
