"""Shared by all tests: a fake model of any behaviour, in-process clients, and a live server on a socket."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from llm_serving.api.app import create_app
from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.config import Settings
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import LoadModel

Open = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def fake_loader(**behaviour: Any) -> LoadModel:
    """A `load` for `create_app`; keywords are `load_fake_engine`'s."""

    def load(settings: Settings) -> ChatModel:
        engine = load_fake_engine(engine_options(settings), **behaviour)
        return ChatModel("fake", engine, FakeTokenizer(), fingerprint="fp_fake", created=1)

    return load


def fake_app(
    load: LoadModel | None = None, behaviour: dict[str, Any] | None = None, **settings: Any
) -> FastAPI:
    """An app on the fake engine; keywords are settings."""
    chosen = Settings(**{"model_name": "fake", "engine": "fake", "drain_s": 0, **settings})
    return create_app(chosen, load=load or fake_loader(**(behaviour or {})))


@asynccontextmanager
async def open_client(
    load: LoadModel | None = None,
    behaviour: dict[str, Any] | None = None,
    wait: bool = True,
    headers: dict[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running in-process app, which is `client.app`. `wait`: until the model has loaded."""
    app = fake_app(load, behaviour, **settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client,
    ):
        client.app = app  # type: ignore[attr-defined]
        if wait:
            await asyncio.wait_for(app.state.services.registry.default.settled(), 5)
        yield client


@contextmanager
def running_server(app: FastAPI) -> Iterator[str]:
    """The base URL of `app`, served by uvicorn on a free port, on a thread of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            _wait_until_ready(url)
            yield url
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


def _wait_until_ready(url: str) -> None:
    deadline_s = time.monotonic() + 10
    while True:
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline_s, "the server did not become ready"
        time.sleep(0.01)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with default settings."""
    async with open_client(behaviour={"reply": "Hello, world! 😀"}) as opened:
        yield opened


@pytest.fixture(scope="session")
def live_url() -> Iterator[str]:
    """A live server that says the same sentence to everybody."""
    with running_server(fake_app(behaviour={"reply": "Hello, world! 😀"})) as url:
        yield url
