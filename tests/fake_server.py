"""The whole server on the fake engine: in process, and live on a socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import uvicorn
from fastapi import FastAPI
from patience import PATIENCE_S, wait_until

from llm_serving.api.app import create_app
from llm_serving.api.deps import Services
from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.backends.fake_encoder import FakeEncoder, FakeEncoderTokenizer
from llm_serving.config import Settings
from llm_serving.embeddings.batcher import MAX_BATCH_TOKENS, Batcher
from llm_serving.engine.protocol import EngineStats
from llm_serving.service.encoder_loader import FAKE_CLASSES, encoder_setting
from llm_serving.service.loader import engine_options
from llm_serving.service.measuring import measure_model
from llm_serving.service.model import ChatModel, EncoderModel, ModelKind
from llm_serving.service.registry import LoadEncoder, LoadModel, MeasureModel


def fake_loader(**behaviour: Any) -> LoadModel:
    """A `load` for `create_app`; keywords are `load_fake_engine`'s."""

    def load(settings: Settings) -> ChatModel:
        engine = load_fake_engine(engine_options(settings), **behaviour)
        return ChatModel("fake", engine, FakeTokenizer(), fingerprint="fp_fake", created=1)

    return load


def fake_encoder_loader(
    prompts: dict[str, str] | None = None, default_prompt: str = "", **behaviour: Any
) -> LoadEncoder:
    """A `load_encoder` for `create_app`; further keywords are `FakeEncoder`'s."""

    def load(settings: Settings, kind: ModelKind) -> EncoderModel:
        classes = FAKE_CLASSES if kind is ModelKind.CLASSIFIER else None
        rows = {"is_cross_encoder": True} if kind is ModelKind.RERANKER else {}
        if classes is not None:
            rows = {"dimensions": len(classes.labels)}
        batcher = Batcher(
            FakeEncoder(**{**behaviour, **rows}),
            max_batch_tokens=MAX_BATCH_TOKENS,
            max_queue_texts=settings.embedding_queue,
        )
        return EncoderModel(
            encoder_setting(settings, kind),
            batcher,
            FakeEncoderTokenizer(),
            prompts or {},
            default_prompt,
            classes=classes,
            created=2,
        )

    return load


FAKE_SETTINGS = {"model_name": "fake", "embedding_model": "fake-embed", "engine": "fake", "drain_s": 0}


def fake_app(
    load: LoadModel | None = None,
    behaviour: dict[str, Any] | None = None,
    load_encoder: LoadEncoder | None = None,
    measure: MeasureModel = measure_model,
    tracing: Any = None,
    **settings: Any,
) -> FastAPI:
    """An app on the fake engine; keywords are settings."""
    return create_app(
        Settings(**{**FAKE_SETTINGS, **settings}),
        load=load or fake_loader(**(behaviour or {})),
        load_encoder=load_encoder or fake_encoder_loader(),
        measure=measure,
        tracing=tracing,
    )


class Client(httpx.AsyncClient):
    """Talks to an app in this process, and can look inside."""

    def __init__(self, app: FastAPI, headers: dict[str, str] | None = None) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        super().__init__(transport=transport, base_url="http://test", headers=headers)
        self.app = app

    @property
    def services(self) -> Services:
        return cast(Services, self.app.state.services)

    @property
    def embedder(self) -> Batcher:
        slot = self.services.registry.embedding
        assert slot is not None
        return slot.get().batcher

    @property
    def stats(self) -> EngineStats:
        return self.services.registry.default.get().engine.stats()


@asynccontextmanager
async def open_client(
    load: LoadModel | None = None,
    behaviour: dict[str, Any] | None = None,
    wait: bool = True,
    headers: dict[str, str] | None = None,
    load_encoder: LoadEncoder | None = None,
    measure: MeasureModel = measure_model,
    tracing: Any = None,
    **settings: Any,
) -> AsyncIterator[Client]:
    """A client of a running app. `wait`: until every model has loaded, or failed to."""
    app = fake_app(load, behaviour, load_encoder, measure, tracing, **settings)
    async with app.router.lifespan_context(app), Client(app, headers) as client:
        if wait:
            for slot in client.services.registry.slots():
                await asyncio.wait_for(slot.settled(), PATIENCE_S)
        yield client


@contextmanager
def running_server(app: FastAPI, ready_s: float = PATIENCE_S) -> Iterator[str]:
    """The base URL of `app`, served by uvicorn on a free port and a thread of its own; ready in `ready_s`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            wait_until(lambda: _is_ready(server, app), "the server did not become ready", ready_s)
            yield url
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
    assert not thread.is_alive()


def send(url: str, path: str, body: dict[str, Any]) -> socket.socket:
    """Send a request to a live server and read nothing; closing the socket is leaving."""
    address = urlsplit(url)
    client = socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    client.sendall(head.encode() + content)
    return client


def _is_ready(server: uvicorn.Server, app: FastAPI) -> bool:
    return server.started and all(slot.can_answer for slot in app.state.services.registry.slots())


def data_of(frame_text: str) -> list[Any]:
    """The `data:` of every frame of an event stream, `[DONE]` as it is."""
    lines = [line.removeprefix("data: ") for line in frame_text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def text_of(chunks: list[Any], index: int = 0) -> str:
    """What a reader of choice `index` sees of a chat stream."""
    return "".join(
        choice["delta"].get("content", "")
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
        if choice["index"] == index
    )


def typed_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream in which each has its `type` as its name."""
    events = []
    for frame in text.strip().split("\n\n"):
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Their types without `response.`, each once where it repeats."""
    names = [event["type"].removeprefix("response.") for event in events]
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
