"""Loading and unloading by request: who may, what it says, and what others see meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest
from admin_server import (
    CHAT,
    EMBEDDER,
    ENDLESS,
    KEY,
    LOAD,
    UNLOAD,
    Loads,
    opened,
    state_of,
    state_of_model,
)
from fake_server import Client, data_of, fake_encoder_loader
from patience import PATIENCE_S, Gate, until

from llm_serving.backends.fake_encoder import word_id
from llm_serving.config import Settings
from llm_serving.errors import DownloadError
from llm_serving.service.model import EncoderModel, ModelKind

pytestmark = pytest.mark.anyio


async def test_a_server_without_keys_refuses(client: Client) -> None:
    for path in (LOAD, UNLOAD):
        response = await client.post(path, headers=KEY)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (403, "api_key_required")
        assert "--api-key" in error["message"]
    assert (await client.post("/chat/completions", json=CHAT)).status_code == 200


async def test_life() -> None:
    async with opened() as client:
        before = (await client.get("/models/fake")).json()
        for _ in range(2):
            response = await client.post(UNLOAD)
            assert response.status_code == 200
            assert response.json() == (await client.get("/models/fake")).json()
            assert (response.json()["object"], response.json()["state"]) == ("model", "unloaded")
        assert (await client.get("/chat")).json()["status"] == "not started"
        ready = await client.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["status"] == "unloaded"
        for path, body in (
            ("/chat/completions", CHAT),
            ("/completions", {"prompt": "a"}),
            ("/tokenize", {"prompt": "a"}),
        ):
            refused = await client.post(path, json=body)
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            assert "POST /admin/models/fake/load" in refused.json()["error"]["message"]
        assert (await client.post("/embeddings", json={"input": "a"})).status_code == 200
        for _ in range(2):
            response = await client.post(LOAD)
            assert response.status_code == 200
            assert response.json() == before
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
        assert (await client.get("/ready")).status_code == 200


async def test_encoders_too_and_what_metrics_say() -> None:
    async with opened(reranker_model="fake-rank") as client:
        await client.post("/embeddings", json={"input": "a"})
        await client.post("/chat/completions", json=CHAT)
        assert 'llm_serving_encoder_texts_total{kind="embedding"} 1.0' in (await client.get("/metrics")).text
        for path in (UNLOAD, f"{EMBEDDER}/unload"):
            assert (await client.post(path)).json()["state"] == "unloaded"
        metrics = (await client.get("/metrics")).text
        assert "llm_serving_ready 0.0" in metrics
        assert "llm_serving_kv_blocks" not in metrics
        assert 'kind="embedding"' not in metrics
        assert 'kind="reranker"' in metrics
        refused = await client.post("/embeddings", json={"input": "a"})
        assert refused.json()["error"]["code"] == "model_unavailable"
        assert f"POST {EMBEDDER}/load" in refused.json()["error"]["message"]
        assert (await client.post(f"{EMBEDDER}/load")).json()["state"] == "loaded"
        assert (await client.post("/embeddings", json={"input": "a"})).status_code == 200
        assert await state_of_model(client) == "unloaded"


async def test_names() -> None:
    async with opened(model_name="smollm2") as client:
        for prefix, name in [
            ("", "SmolLM2"),
            ("/v1", "HuggingFaceTB/SmolLM2-135M-Instruct"),
            ("", "HuggingFaceTB%2FSmolLM2-135M-Instruct"),
        ]:
            for action, state in (("unload", "unloaded"), ("load", "loaded")):
                response = await client.post(f"{prefix}/admin/models/{name}/{action}")
                assert response.json()["id"] == "smollm2-135m-instruct"
                assert response.json()["state"] == state
        for name in ("gpt-4o", "qwen2.5-0.5b-instruct", "//etc/passwd", "../fake", "%00", "load"):
            for action in ("load", "unload"):
                response = await client.post(f"/admin/models/{name}/{action}")
                assert response.status_code == 404
                assert response.json()["error"]["code"] in ("model_not_found", "not_found")
        assert (await client.post("/admin/models/smollm2")).status_code == 404
        assert (await client.get("/admin/models/smollm2/load")).status_code == 405
        assert await state_of_model(client, "smollm2") == "loaded"


@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b"\xff", b'{"a": NaN}', b"[" * 5000])
async def test_bad_bodies(body: bytes) -> None:
    async with opened() as client:
        for path in (UNLOAD, LOAD):
            assert (await client.post(path, content=body)).status_code == 400
        assert await state_of_model(client) == "loaded"


async def test_unknown_fields_are_listed_or_refused() -> None:
    async with opened() as client:
        response = await client.post(UNLOAD, json={"force": True})
        assert response.headers["x-ignored-parameters"] == "force"
        assert "x-ignored-parameters" not in (await client.post(LOAD, json={})).headers
    async with opened(strict_parameters=True) as client:
        assert (await client.post(UNLOAD, json={"force": True})).status_code == 400
        assert await state_of_model(client) == "loaded"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_runs_may_finish(stream: bool) -> None:
    gate = Gate()
    async with opened(Loads(random=True, before_step=gate.pass_), drain_s=30) as client:
        gate.shut()
        body = {**ENDLESS, "max_tokens": 60, "stream": stream}
        running = asyncio.create_task(client.post("/chat/completions", json=body))
        await until(lambda: client.stats.num_running)
        unloading = asyncio.create_task(client.post(UNLOAD))
        await until(lambda: state_of(client) == "unloading")
        assert await state_of_model(client) == "unloading"
        assert (await client.get("/ready")).json()["models"][0]["state"] == "unloading"
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 503
        assert not running.done()
        gate.open()
        response = await running
        if stream:
            assert data_of(response.text)[-1] == "[DONE]"
        else:
            assert response.json()["usage"]["completion_tokens"] == 60
        assert (await unloading).json()["state"] == "unloaded"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_still_runs_at_the_deadline_is_told(stream: bool) -> None:
    async with opened(Loads(random=True, step_seconds=0.01), drain_s=0.05) as client:
        running = asyncio.create_task(client.post("/chat/completions", json={**ENDLESS, "stream": stream}))
        await until(lambda: client.stats.num_running)
        assert (await client.post(UNLOAD)).json()["state"] == "unloaded"
        response = await running
        error = data_of(response.text)[-1]["error"] if stream else response.json()["error"]
        assert error["code"] == "cancelled"
        assert "unloaded" in error["message"]
        assert response.status_code == (200 if stream else 503)


async def test_texts_that_wait_at_the_deadline_are_told() -> None:
    gate = threading.Event()
    encoders = fake_encoder_loader(gate=gate)
    async with opened(load_encoder=encoders) as client:
        running = [asyncio.create_task(client.post("/embeddings", json={"input": "a"})) for _ in range(2)]
        await until(lambda: client.embedder.stats().num_running)
        late = asyncio.create_task(client.post("/embeddings", json={"input": "b"}))
        await until(lambda: client.embedder.stats().num_waiting)
        unloading = asyncio.create_task(client.post(f"{EMBEDDER}/unload"))
        await until(lambda: client.services.registry.slots()[1].state.value == "unloading")
        gate.set()
        assert (await unloading).json()["state"] == "unloaded"
        assert {response.status_code for response in await asyncio.gather(*running)} == {200}
        assert (await late).json()["error"]["code"] == "cancelled"


async def test_texts_wait_for_a_model_that_is_being_loaded() -> None:
    gate = threading.Event()
    gate.set()
    make = fake_encoder_loader()

    def load_encoder(settings: Settings, kind: ModelKind) -> EncoderModel:
        assert gate.wait(PATIENCE_S)
        return make(settings, kind)

    async with opened(load_encoder=load_encoder) as client:
        await client.post(f"{EMBEDDER}/unload")
        gate.clear()
        loading = asyncio.create_task(client.post(f"{EMBEDDER}/load"))
        await until(lambda: client.services.registry.slots()[1].state.value == "loading")
        embedding = asyncio.create_task(client.post("/embeddings", json={"input": "a"}))
        await asyncio.sleep(0.01)
        assert not embedding.done()
        gate.set()
        assert (await embedding).status_code == 200
        assert (await loading).status_code == 200


async def test_a_load_that_fails_says_why_and_may_be_tried_again() -> None:
    load = Loads()
    async with opened(load) as client:
        await client.post(UNLOAD)
        load.outcomes = [DownloadError("no network"), KeyError("internal detail")]
        for reason in ("no network", "KeyError"):
            response = await client.post(LOAD)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "model_unavailable"
            assert reason in response.json()["error"]["message"]
            assert "detail" not in response.text
            assert await state_of_model(client) == "failed"
        assert (await client.post(LOAD)).json()["state"] == "loaded"
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
        await client.post(UNLOAD)
        load.outcomes = [DownloadError("no network")]
        await client.post(LOAD)
        assert (await client.post(UNLOAD)).json()["state"] == "unloaded"  # what is not there can go


async def test_an_engine_that_died_is_replaced_and_freed() -> None:
    load = Loads(fail_at_step=3)
    async with opened(load) as client:
        for _ in range(2):
            response = await client.post("/chat/completions", json=ENDLESS)
            assert response.json()["error"]["code"] == "engine_dead"
            assert await state_of_model(client) == "failed"
            assert (await client.post(LOAD)).json()["state"] == "loaded"
            assert load.num_open == 1
        await client.post("/chat/completions", json=ENDLESS)
        assert (await client.post(UNLOAD)).json()["state"] == "unloaded"
        assert load.num_open == 0


async def test_an_encoder_that_died_is_replaced() -> None:
    async with opened(load_encoder=fake_encoder_loader(dies_on=word_id("bomb"))) as client:
        dead = await client.post("/embeddings", json={"input": "bomb"})
        assert dead.json()["error"]["code"] == "engine_dead"
        assert await state_of_model(client, "fake-embed") == "failed"
        assert (await client.post(f"{EMBEDDER}/load")).json()["state"] == "loaded"
        assert (await client.post("/embeddings", json={"input": "a"})).status_code == 200
