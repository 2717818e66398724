"""Loading and unloading by request, all at once: waiting, leaving, stopping, and any order."""

from __future__ import annotations

import asyncio
import random

import httpx
import pytest
from admin_server import (
    CHAT,
    EMBEDDER,
    ENDLESS,
    LOAD,
    UNLOAD,
    Loads,
    opened,
    state_of,
)
from fake_server import Client
from patience import Gate, until

pytestmark = pytest.mark.anyio


async def test_loads_at_the_same_time_are_one_and_a_client_may_leave() -> None:
    load = Loads()
    async with opened(load) as client:
        await client.post(UNLOAD)
        load.gate.clear()
        waiting = [asyncio.create_task(client.post(LOAD)) for _ in range(5)]
        await until(lambda: state_of(client) == "loading")
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        refused = await client.post("/chat/completions", json=CHAT)
        assert refused.json()["error"]["code"] == "model_loading"
        waiting.pop(0).cancel()
        load.gate.set()
        assert {response.json()["state"] for response in await asyncio.gather(*waiting)} == {"loaded"}
        await client.post(UNLOAD)
        load.gate.clear()
        alone = asyncio.create_task(client.post(LOAD))
        await until(lambda: state_of(client) == "loading")
        alone.cancel()
        await asyncio.wait([alone])
        load.gate.set()
        await until(lambda: state_of(client) == "ready")
        assert len(load.models) == 3
        assert load.num_open == 1


async def test_a_client_that_leaves_does_not_stop_unloading() -> None:
    gate = Gate()
    load = Loads(random=True, before_step=gate.pass_)
    async with opened(load, drain_s=30) as client:
        gate.shut()
        running = asyncio.create_task(client.post("/chat/completions", json={**ENDLESS, "max_tokens": 60}))
        await until(lambda: client.stats.num_running)
        unloading = asyncio.create_task(client.post(UNLOAD))
        await until(lambda: state_of(client) == "unloading")
        unloading.cancel()
        gate.open()
        assert (await running).status_code == 200
        await until(lambda: state_of(client) == "unloaded")
        assert load.num_open == 0


async def test_what_is_asked_for_while_the_other_goes_on_waits_for_it() -> None:
    gate = Gate()
    load = Loads(random=True, before_step=gate.pass_)
    async with opened(load, drain_s=30) as client:
        gate.shut()
        running = asyncio.create_task(client.post("/chat/completions", json={**ENDLESS, "max_tokens": 60}))
        await until(lambda: client.stats.num_running)
        unloading = asyncio.create_task(client.post(UNLOAD))
        await until(lambda: state_of(client) == "unloading")
        loading = asyncio.create_task(client.post(LOAD))
        await until(lambda: state_of(client) == "loading")
        assert not running.done()
        gate.open()
        assert (await running).status_code == 200
        assert (await loading).json()["state"] == "loaded"
        assert (await unloading).status_code == 200
        await client.post(UNLOAD)
        load.gate.clear()
        loading = asyncio.create_task(client.post(LOAD))
        await until(lambda: state_of(client) == "loading")
        unloading = asyncio.create_task(client.post(UNLOAD))
        await asyncio.sleep(0.01)
        assert not unloading.done()
        load.gate.set()
        assert (await unloading).json()["state"] == "unloaded"
        assert (await loading).status_code in (200, 503)
        assert load.num_open == 0


async def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_serving.service.registry.LOAD_WAIT_S", 0.01)
    load = Loads()
    async with opened(load) as client:
        await client.post(UNLOAD)
        load.gate.clear()
        for path in (LOAD, UNLOAD):
            response = await client.post(path)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "model_loading")
            assert "retry-after" in response.headers
        load.gate.set()
        await until(lambda: state_of(client) == "ready")


async def test_the_server_stops_in_the_middle() -> None:
    gate = Gate()
    load = Loads(random=True, step_seconds=0.01, before_step=gate.pass_)
    async with opened(load, drain_s=0.3) as client:
        gate.shut()  # a step that does not end holds up the unloading
        running = asyncio.create_task(client.post("/chat/completions", json=ENDLESS))
        await until(lambda: client.stats.num_running)
        unloading = asyncio.create_task(client.post(UNLOAD))
        await until(lambda: state_of(client) == "unloading")
        loading = asyncio.create_task(client.post(LOAD))
        await until(lambda: state_of(client) == "loading")
        client.services.registry.begin_close()
        refused = await loading
        gate.open()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
        assert "stopping" in refused.json()["error"]["message"]
        assert "stopping" in (await client.post(LOAD)).json()["error"]["message"]
        assert (await client.post(UNLOAD)).status_code == 200
        await client.services.registry.close()
        assert (await running).json()["error"]["code"] == "cancelled"
        assert (await unloading).status_code == 200
        assert load.num_open == 0
        assert len(load.models) == 1


async def test_the_server_stops_while_it_loads() -> None:
    load = Loads()
    async with opened(load) as client:
        await client.post(UNLOAD)
        load.gate.clear()
        loading, unloading = (asyncio.create_task(client.post(path)) for path in (LOAD, UNLOAD))
        await until(lambda: state_of(client) == "loading")
        await client.services.registry.close()
        assert "stopping" in (await loading).json()["error"]["message"]
        assert (await unloading).status_code == 200
    load.gate.set()
    await until(lambda: len(load.models) == 2 and load.num_open == 0)


@pytest.mark.parametrize("seed", range(4))
async def test_many_at_once_in_any_order(seed: int) -> None:
    """Each is answered, there are never two engines, and the last word counts."""
    chance = random.Random(seed)
    load = Loads(step_seconds=0.001)

    async def one(client: Client) -> httpx.Response:
        await asyncio.sleep(chance.random() * 0.1)
        path, body = chance.choice(
            [
                (LOAD, {}),
                (UNLOAD, {}),
                ("/chat/completions", {**ENDLESS, "max_tokens": 20}),
                ("/chat/completions", {**ENDLESS, "max_tokens": 20, "stream": True}),
                ("/embeddings", {"input": "a"}),
                (f"{EMBEDDER}/load", {}),
                (f"{EMBEDDER}/unload", {}),
            ]
        )
        return await client.post(path, json=body)

    async with opened(load, drain_s=chance.choice([0, 0.02, 5])) as client:
        for _ in range(2):
            for response in await asyncio.gather(*(one(client) for _ in range(32))):
                if response.status_code == 200:
                    continue
                code = response.json()["error"]["code"]
                known = {503: {"model_loading", "model_unavailable", "cancelled"}, 429: {"overloaded"}}
                assert code in known[response.status_code]
        for path in (UNLOAD, f"{EMBEDDER}/unload"):
            assert (await client.post(path)).json()["state"] == "unloaded"
        assert load.num_open == 0
        for path in (LOAD, f"{EMBEDDER}/load"):
            assert (await client.post(path)).json()["state"] == "loaded"
        assert load.num_open == 1
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
        assert (await client.post("/embeddings", json={"input": "a"})).status_code == 200
