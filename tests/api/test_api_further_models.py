"""More than one chat model in a server, loaded when asked for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from admin_server import KEY
from fake_server import fake_app, running_server, send
from patience import PATIENCE_S, until
from several_models import Zoo, ask, opened, slot_of, states

from llm_serving.api.inprocess import generate_response
from llm_serving.errors import DownloadError
from llm_serving.service import slot as slots
from llm_serving.service.slot import ModelState

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}


async def test_listed_from_the_start_and_loaded_by_the_first_request() -> None:
    zoo = Zoo()
    async with opened(zoo, "one", "two") as client:
        assert await states(client) == {"fake": "loaded", "one": "available", "two": "available"}
        assert (await client.get("/models/one")).json()["context_length"] is None
        tags = (await client.get("/api/tags")).json()["models"]
        assert [tag["name"] for tag in tags] == [
            "fake:latest",
            "one:latest",
            "two:latest",
            "fake-embed:latest",
        ]
        answer = (await ask(client, "one")).json()
        assert (answer["model"], answer["usage"]["completion_tokens"]) == ("one", 3)
        assert (await ask(client, "ONE:latest")).json()["model"] == "one"
        assert await states(client) == {"fake": "loaded", "one": "loaded", "two": "available"}
        assert (await client.get("/models/one")).json()["context_length"] == 4096
        running = (await client.get("/api/ps")).json()["models"]
        assert [each["name"] for each in running] == ["fake:latest", "one:latest", "fake-embed:latest"]
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["model"]) == (200, "fake")
        assert [each["state"] for each in ready.json()["models"]] == ["ready", "ready", "available", "ready"]
        assert zoo.loads == {"fake": 1, "one": 1}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", CHAT),
        ("/completions", {"prompt": "a"}),
        ("/messages", CHAT),
        ("/messages/count_tokens", CHAT),
        ("/responses", {"input": "a"}),
        ("/responses/input_tokens", {"input": "a"}),
        ("/api/chat", {**CHAT, "stream": False}),
        ("/api/chat", {"messages": []}),
        ("/api/generate", {"prompt": "a", "stream": False, "options": {"num_ctx": 64}}),
        ("/api/generate", {}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [65]}),
        ("/apply-template", {"messages": [{"content": "a"}]}),
    ],
)
async def test_every_route_has_it_loaded(path: str, body: dict[str, Any]) -> None:
    zoo = Zoo()
    async with opened(zoo, "one") as client:
        response = await client.post(path, json={**body, "model": "one"})
        assert response.status_code == 200, response.text
        assert response.json().get("model", "one") == "one"
        assert zoo.loads["one"] == 1


async def test_wrong_requests_load_nothing() -> None:
    zoo = Zoo()
    async with opened(zoo, "one") as client:
        for path, body in (
            ("/chat/completions", {"messages": []}),
            ("/completions", {"prompt": {}}),
            ("/api/chat", {"messages": [{"role": "nobody", "content": "a"}]}),
            ("/embeddings", {"input": "a"}),
        ):
            assert (await client.post(path, json={**body, "model": "one"})).status_code == 400, path
        assert (await ask(client, "three")).json()["model"] == "fake"
        assert zoo.loads == {"fake": 1}


async def test_strict_names_know_them() -> None:
    async with opened(Zoo(), "one", strict_model_names=True) as client:
        refused = await ask(client, "two")
        assert refused.status_code == 404
        assert "Served here: fake, one, fake-embed" in refused.json()["error"]["message"]
        assert (await ask(client, "one")).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_many_requests_for_a_cold_model_are_one_load(stream: bool) -> None:
    zoo = Zoo()
    zoo.gates["one"] = threading.Event()
    async with opened(zoo, "one") as client:
        asked = [ask(client, "one", stream=stream) for _ in range(20)]
        await until(lambda: zoo.loads["one"])
        assert (await ask(client, "fake")).status_code == 200  # others do not wait
        assert not any(each.done() for each in asked)
        zoo.gates["one"].set()
        assert {each.status_code for each in await asyncio.gather(*asked)} == {200}
        assert zoo.loads["one"] == 1


async def test_so_many_may_wait_and_no_more() -> None:
    zoo = Zoo()
    zoo.gates["one"] = threading.Event()
    async with opened(zoo, "one", max_concurrency=2, max_queue=1) as client:
        asked = [ask(client, "one") for _ in range(3)]
        await until(lambda: zoo.loads["one"])
        refused = await ask(client, "one")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        zoo.gates["one"].set()
        assert {each.status_code for each in await asyncio.gather(*asked)} == {200}


async def test_waiting_ends_and_the_load_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "WAKE_WAIT_S", 0.01)
    zoo = Zoo()
    zoo.gates["one"] = threading.Event()
    async with opened(zoo, "one") as client:
        late = await ask(client, "one")
        assert (late.status_code, late.json()["error"]["code"]) == (503, "model_loading")
        assert "retry-after" in late.headers
        zoo.gates["one"].set()
        await slot_of(client, "one").settled()
        assert (await ask(client, "one")).status_code == 200
        assert zoo.loads["one"] == 1


async def test_a_failure_is_told_to_all_who_wait_and_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slots, "RETRY_S", 1000.0)
    zoo = Zoo()
    zoo.gates["one"] = threading.Event()
    zoo.errors["one"] = DownloadError("no network")
    async with opened(zoo, "one") as client:
        asked = [ask(client, "one") for _ in range(5)]
        await until(lambda: zoo.loads["one"])
        zoo.gates["one"].set()
        for response in [*await asyncio.gather(*asked), await ask(client, "one")]:
            assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
            assert "no network" in response.json()["error"]["message"]
            assert "retry-after" in response.headers
        assert zoo.loads["one"] == 1
        assert await states(client) == {"fake": "loaded", "one": "failed"}
        assert (await client.get("/ready")).status_code == 200
        slot_of(client, "one")._retry_s = 0.0
        assert (await ask(client, "one")).status_code == 200
        assert zoo.loads["one"] == 2


async def test_an_engine_that_died_is_loaded_again_by_a_later_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slots, "RETRY_S", 0.0)
    zoo = Zoo(fail_at_step=3)
    async with opened(zoo, "one") as client:
        for loads in (1, 2):
            dead = await ask(client, "one", max_tokens=30)
            assert dead.json()["error"]["code"] == "engine_dead"
            assert zoo.loads["one"] == loads
        assert zoo.num_open == 2  # the default model, and the one that died last
        assert (await ask(client, "fake")).status_code == 200


async def test_whoever_waits_may_be_cancelled() -> None:
    zoo = Zoo()
    zoo.gates["one"] = threading.Event()
    async with opened(zoo, "one") as client:
        asked = [ask(client, "one") for _ in range(3)]
        await until(lambda: zoo.loads["one"])
        for each in asked[:2]:
            each.cancel()
        await asyncio.gather(*asked[:2], return_exceptions=True)
        zoo.gates["one"].set()
        assert (await asked[2]).status_code == 200
        await until(lambda: slot_of(client, "one").is_idle)
        assert zoo.loads["one"] == 1


async def test_a_client_that_leaves_does_not_wait_on() -> None:
    zoo = Zoo()
    zoo.gates["one"] = threading.Event()
    app = fake_app(zoo.load, further_models=("one",))
    with running_server(app) as url:
        slot = app.state.services.registry.further[0]
        with send(url, "/chat/completions", {**CHAT, "model": "one"}):
            await until(lambda: slot._num_users)
        await until(lambda: not slot._num_users)
        assert slot.state is ModelState.LOADING
        zoo.gates["one"].set()
        answer = await asyncio.to_thread(httpx.post, f"{url}/chat/completions", json={**CHAT, "model": "one"})
        assert answer.json()["model"] == "one"
        text = await asyncio.to_thread(generate_response, "Hi", model_name="one")
        assert text
        assert zoo.loads["one"] == 1


async def test_by_hand() -> None:
    zoo = Zoo()
    async with opened(zoo, "one", headers=KEY, api_key=("k",)) as client:
        assert (await client.post("/admin/models/one/unload")).json()["state"] == "unloaded"
        for _ in range(2):
            refused = await ask(client, "one")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
            assert "POST /admin/models/one/load" in refused.json()["error"]["message"]
            assert (await client.post("/admin/models/one/load")).json()["state"] == "loaded"
            assert (await ask(client, "one")).status_code == 200
            assert (await client.post("/admin/models/one/unload")).json()["state"] == "unloaded"
        assert zoo.num_open == 1
        assert zoo.loads["one"] == 2


async def test_metrics_are_labelled_by_model() -> None:
    async with opened(Zoo(), "one", "two") as client:
        await ask(client, "one")
        await ask(client, "one")
        text = (await client.get("/metrics")).text
        for line in (
            'llm_serving_generated_tokens_total{model="fake"} 0.0',
            'llm_serving_generated_tokens_total{model="one"} 6.0',
            'llm_serving_sequence_seconds_count{model="one"} 2.0',
        ):
            assert f"{line}\n" in text
        assert 'model="two"' not in text


async def test_the_end_drains_all_of_them() -> None:
    zoo = Zoo(random=True)
    async with opened(zoo, "one", drain_s=PATIENCE_S) as client:
        await ask(client, "one")
        zoo.steps.shut()
        asked = [ask(client, name, max_tokens=40, ignore_eos=True) for name in ("fake", "one")]
        await until(lambda: all(engine.stats().num_running for engine in zoo.engines))
        zoo.steps.open()
        await client.services.registry.close()
        for response in await asyncio.gather(*asked):
            assert response.json()["usage"]["completion_tokens"] == 40
        assert zoo.num_open == 0
        assert (await ask(client, "one")).json()["error"]["code"] == "model_unavailable"


async def test_closed_while_one_is_being_loaded() -> None:
    zoo = Zoo()
    zoo.gates["one"] = threading.Event()
    async with opened(zoo, "one") as client:
        asked = ask(client, "one")
        await until(lambda: zoo.loads["one"])
        await client.services.registry.close()
        assert (await asked).status_code == 503
    zoo.gates["one"].set()
    await until(lambda: len(zoo.engines) == 2)
    await until(lambda: zoo.num_open == 0)
