"""A replica in this process: what Ray's own calls meet."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from fake_server import FAKE_SETTINGS, fake_encoder_loader, fake_loader
from patience import PATIENCE_S

from llm_serving.api.app import App, create_app
from llm_serving.config import Settings
from llm_serving.deploy.replica import ReplicaApp
from llm_serving.errors import CheckpointError
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import LoadModel

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_serving.deploy.replica.configure_logging", lambda level: None)


CHAT = {"messages": [{"content": "Hello"}]}


def make(load: LoadModel, settings: Settings) -> App:
    return create_app(settings, load=load, load_encoder=fake_encoder_loader())


class Lifespan:
    """What uvicorn, and Ray with its code, do around the requests of an app."""

    def __init__(self, app: ReplicaApp) -> None:
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.ensure_future(
            app({"type": "lifespan", "asgi": {"version": "3.0"}}, self._to_app.get, self._from_app.put)
        )

    async def start(self) -> None:
        self._to_app.put_nowait({"type": "lifespan.startup"})
        assert (await self._from_app.get())["type"] == "lifespan.startup.complete"

    async def stop(self) -> None:
        self._to_app.put_nowait({"type": "lifespan.shutdown"})
        assert (await self._from_app.get())["type"] == "lifespan.shutdown.complete"
        await self._task


@asynccontextmanager
async def started(load: LoadModel, **settings: Any) -> AsyncIterator[tuple[ReplicaApp, httpx.AsyncClient]]:
    app = ReplicaApp(Settings(**{**FAKE_SETTINGS, **settings}), make=partial(make, load))
    lifespan = Lifespan(app)
    await asyncio.wait_for(lifespan.start(), PATIENCE_S)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield app, client
    await asyncio.wait_for(lifespan.stop(), PATIENCE_S)


async def test_it_can_be_sent_and_answers_where_it_starts() -> None:
    app = pickle.loads(pickle.dumps(ReplicaApp(Settings(**FAKE_SETTINGS))))
    lifespan = Lifespan(app)
    await asyncio.wait_for(lifespan.start(), PATIENCE_S)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/ready")).status_code == 200
        answer = await client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert "x-request-id" not in answer.headers  # Ray's proxy writes it
    await asyncio.wait_for(lifespan.stop(), PATIENCE_S)


async def test_it_starts_when_its_models_have_loaded() -> None:
    may_load = threading.Event()

    def load(settings: Settings) -> ChatModel:
        assert may_load.wait(PATIENCE_S)
        return fake_loader()(settings)

    app = ReplicaApp(Settings(**FAKE_SETTINGS), make=partial(make, load))
    lifespan = Lifespan(app)
    starting = asyncio.ensure_future(lifespan.start())
    await asyncio.sleep(0.05)
    assert not starting.done()
    may_load.set()
    await asyncio.wait_for(starting, PATIENCE_S)
    app.check_health()
    await asyncio.wait_for(lifespan.stop(), PATIENCE_S)


async def test_a_model_that_does_not_load_is_no_start() -> None:
    def load(settings: Settings) -> ChatModel:
        raise CheckpointError("The file is cut short.")

    async with started(load) as (app, _):
        with pytest.raises(RuntimeError, match="'fake' failed: The file is cut short"):
            app.check_health()


async def test_an_engine_that_died_is_no_health() -> None:
    async with started(fake_loader(fail_at_step=3)) as (app, client):
        app.check_health()
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 503
        with pytest.raises(RuntimeError, match="The engine stopped working"):
            app.check_health()


async def test_a_model_that_was_unloaded_is_no_failure() -> None:
    settings = Settings(**{**FAKE_SETTINGS, "api_key": "secret"})
    app = ReplicaApp(settings, make=partial(make, fake_loader()))
    lifespan = Lifespan(app)
    await asyncio.wait_for(lifespan.start(), PATIENCE_S)
    headers = {"authorization": "Bearer secret"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post("/admin/models/fake/unload", headers=headers)).status_code == 200
    app.check_health()
    await asyncio.wait_for(lifespan.stop(), PATIENCE_S)


async def test_further_models_are_neither_waited_for_nor_a_reason_to_end() -> None:
    make_model = fake_loader()

    def load(settings: Settings) -> ChatModel:
        if settings.model_name == "broken":
            raise CheckpointError("model.gguf: is truncated.")
        return make_model(settings)

    async with started(load, further_models=("broken",)) as (app, client):
        assert (await client.post("/chat/completions", json={**CHAT, "model": "broken"})).status_code == 503
        app.check_health()
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
