"""More than the server can hold, and its end: clear refusals, nothing lost, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_server import data_of, open_client, text_of
from patience import PATIENCE_S, Gate, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
REPLY = "Hello, world! 😀"
ENDLESS: dict[str, Any] = {"messages": [{"content": "Hi"}], "max_tokens": 3000, "ignore_eos": True}


async def test_two_hundred_at_once_on_a_queue_of_64() -> None:
    behaviour = {"reply": REPLY, "step_seconds": 0.002}
    async with open_client(behaviour=behaviour, max_concurrency=16, max_queue=64) as client:
        bodies = [{"messages": [{"content": f"Hello {i}"}], "stream": i % 2 == 0} for i in range(200)]
        responses = await asyncio.gather(*(client.post("/chat/completions", json=body) for body in bodies))
        num_answered = 0
        for response, body in zip(responses, bodies, strict=True):
            if response.status_code == 200:
                num_answered += 1
                if body["stream"]:
                    assert text_of(data_of(response.text)) == REPLY
                else:
                    assert response.json()["choices"][0]["message"]["content"] == REPLY
            else:
                assert response.status_code == 429
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["error"]["code"] == "overloaded"
        assert num_answered >= 80
        assert (await client.post("/chat/completions", json={**ENDLESS, "max_tokens": 1})).status_code == 200
        assert client.stats.num_running == client.stats.num_waiting == 0
        assert client.stats.num_free_blocks == client.stats.num_blocks


async def test_all_choices_are_admitted_or_none() -> None:
    gate = Gate()
    async with open_client(behaviour={"before_step": gate.pass_}, max_concurrency=2, max_queue=1) as client:
        response = await client.post("/completions", json={"prompt": ["a", "b"], "n": 2})
        assert response.status_code == 400  # can never be admitted
        gate.shut()
        running = asyncio.create_task(client.post("/chat/completions", json={**ENDLESS, "max_tokens": 30}))
        await until(lambda: client.stats.num_running)
        refused = await client.post("/completions", json={"prompt": ["a", "b", "c"]})
        assert refused.status_code == 429
        gate.open()
        await until(lambda: not client.stats.num_waiting)  # the engine has taken note, in a step at most
        response = await client.post("/completions", json={"prompt": ["a", "b"], "max_tokens": 1})
        assert response.status_code == 200
        assert (await running).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_what_still_runs_at_the_deadline_is_told(stream: bool) -> None:
    behaviour = {"random": True, "step_seconds": 0.01}
    async with open_client(behaviour=behaviour, drain_s=0.05) as client:
        running = asyncio.create_task(client.post("/chat/completions", json={**ENDLESS, "stream": stream}))
        while not client.stats.num_running:
            await asyncio.sleep(0.001)
        client.services.registry.begin_close()
        assert (await client.post("/chat/completions", json=ENDLESS)).status_code == 503
        assert (await client.get("/ready")).status_code == 503
        response = await running
        error = data_of(response.text)[-1]["error"] if stream else response.json()["error"]
        assert error["code"] == "cancelled"
        assert response.status_code == (200 if stream else 503)


def test_sigterm_lets_running_requests_finish_and_admits_nothing_more() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "LLM_SERVING_ENGINE": "fake", "LLM_SERVING_DRAIN_S": "20", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=PATIENCE_S) as client:
            while client.get(f"{url}/ready").status_code != 200:
                time.sleep(0.02)
            # Kept open: uvicorn closes its socket for new connections, not this one.
            with client.stream(
                "POST", f"{url}/chat/completions", json={**ENDLESS, "max_tokens": 1000, "stream": True}
            ) as response:
                lines = response.iter_lines()
                first = [next(lines) for _ in range(10)]
                server.send_signal(signal.SIGTERM)
                text = "\n".join([*first, *lines])
        chunks = data_of(text)
        assert chunks[-1] == "[DONE]"
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        _, log = server.communicate(timeout=PATIENCE_S)
        assert server.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in log
        assert "POST /chat/completions 200" in log
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
    finally:
        server.kill()
        server.wait()


def test_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVING_PORT", "http")
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "main.py"))
    assert "LLM_SERVING_PORT" in str(caught.value)
    assert "\n" not in str(caught.value)
