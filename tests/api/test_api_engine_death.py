"""A step that fails ends the model's engine: everybody hears of it, and the model is loaded again."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest
from admin_server import Loads
from fake_server import Client, data_of, open_client
from patience import PATIENCE_S, Gate, until

from llm_serving.service import slot

pytestmark = pytest.mark.anyio

ENDLESS: dict[str, Any] = {"messages": [{"content": "Hi"}], "max_tokens": 3000, "ignore_eos": True}
NUM_RUNNING, NUM_WAITING = 8, 4
SAID = "The engine stopped working: MemoryError."
DEATH = {"message": SAID, "type": "server_error", "param": None, "code": "engine_dead"}


class Memory:
    """Steps of the first engine find none once it is `spent`."""

    def __init__(self) -> None:
        self.is_spent = False
        self.gate = Gate()

    def take(self) -> None:
        self.gate.pass_()
        if self.is_spent:
            self.is_spent = False
            raise MemoryError("no room for a step")


def ask(client: Client, stream: bool) -> asyncio.Task[httpx.Response]:
    return asyncio.ensure_future(client.post("/chat/completions", json={**ENDLESS, "stream": stream}))


async def test_streams_the_queue_and_who_comes_later(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    load = Loads(random=True, before_step=memory.take)
    async with open_client(load, max_concurrency=NUM_RUNNING) as client:
        default = client.services.registry.default
        streams = [ask(client, stream=True) for _ in range(NUM_RUNNING)]
        await until(
            lambda: client.stats.num_running == NUM_RUNNING and client.stats.num_generated_tokens > 40
        )
        memory.gate.shut()
        waiting = [ask(client, stream=i % 2 == 0) for i in range(NUM_WAITING)]
        await until(lambda: client.stats.num_waiting == NUM_WAITING)
        memory.is_spent = True
        memory.gate.open()
        for response in await asyncio.wait_for(asyncio.gather(*streams), PATIENCE_S):
            *chunks, last = data_of(response.text)
            assert (response.status_code, len(chunks) > 2, last["error"]) == (200, True, DEATH)
        for i, response in enumerate(await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)):
            if i % 2 == 0:  # a stream has its status while it waits
                assert (response.status_code, data_of(response.text)[-1]["error"]) == (200, DEATH)
            else:
                assert (response.status_code, response.headers["retry-after"]) == (503, "5")
                assert response.json()["error"] == DEATH
        assert "no room for a step" in caplog.text, "the log says more"

        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["status"], ready.json()["reason"]) == (503, "failed", SAID)
        metrics = (await client.get("/metrics")).text
        assert "llm_serving_ready 0.0" in metrics
        assert "llm_serving_requests_in_flight 1.0" in metrics, "the one that reads them"
        refused = await client.post("/chat/completions", json=ENDLESS)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
        assert SAID in refused.json()["error"]["message"]

        # Its turn comes ten seconds later.
        default._revive(default._attempt)
        await asyncio.wait_for(default.settled(), PATIENCE_S)
        assert load.num_open == 1, "the dead engine is closed"
        again = await client.post("/chat/completions", json={**ENDLESS, "max_tokens": 3})
        assert again.status_code == 200
        assert client.stats.num_free_blocks == client.stats.num_blocks
        assert client.stats.num_running == client.stats.num_waiting == 0


async def test_it_comes_back_by_itself_unless_somebody_was_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "REVIVE_S", 0.01)
    load = Loads(fail_at_step=3)
    async with open_client(load) as client:
        for count in (2, 3):
            response = await client.post("/chat/completions", json=ENDLESS)
            assert response.json()["error"]["code"] == "engine_dead"
            await until(lambda count=count: len(load.models) == count)
            await until(lambda: client.services.registry.default.model is not None)
        await client.post("/chat/completions", json=ENDLESS)
        await client.services.registry.unload("fake", "It stays away.")
        assert client.services.registry.default.state.value == "unloaded"
        await asyncio.sleep(0.05)
        assert len(load.models) == 3
        assert client.services.registry.default.state.value == "unloaded"


async def test_a_load_that_fails_then_is_the_last_by_itself(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "REVIVE_S", 0.01)
    caplog.set_level(logging.ERROR)
    load = Loads(fail_at_step=3)
    async with open_client(load) as client:
        load.outcomes = [MemoryError()]
        await client.post("/chat/completions", json=ENDLESS)
        await until(lambda: "failed to load" in caplog.text)
        await asyncio.sleep(0.05)
        assert client.services.registry.default.state.value == "failed"
        assert (len(load.models), load.num_open) == (1, 0)
