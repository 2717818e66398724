"""A server with further chat models on the fake engine: they load, fail and take as much as they are told."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fake_server import Client, fake_encoder_loader, open_client
from patience import PATIENCE_S, Gate

from llm_serving.backends.fake import FakeTokenizer, load_fake_engine
from llm_serving.backends.memory_need import MemoryNeed
from llm_serving.config import Settings
from llm_serving.service.encoder_loader import encoder_setting
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel, EncoderModel, ModelKind
from llm_serving.service.registry import ChatSlot

MIB = 1 << 20


class Zoo:
    """Makes the models. A model of `sizes` MiB has no keys and values to speak of; others are not counted."""

    def __init__(self, sizes: dict[str, int] | None = None, **behaviour: Any) -> None:
        self.loads: Counter[str] = Counter()  # of chat models
        self.encoder_loads: Counter[str] = Counter()
        self.granted: dict[str, int] = {}
        self.gates: dict[str, threading.Event] = {}
        self.errors: dict[str, Exception] = {}  # of the next load
        self.engines: list[Any] = []
        self.steps = Gate()  # of all chat models
        self._sizes = sizes or {}
        self._behaviour = {**behaviour, "before_step": self.steps.pass_}

    def load(self, settings: Settings) -> ChatModel:
        name = settings.model_name
        self.loads[name] += 1
        self.granted[name] = settings.memory
        if name in self.gates:
            assert self.gates[name].wait(PATIENCE_S)
        if name in self.errors:
            raise self.errors.pop(name)
        self.engines.append(load_fake_engine(engine_options(settings), **self._behaviour))
        return ChatModel(name, self.engines[-1], FakeTokenizer(), created=1)

    def load_encoder(self, settings: Settings, kind: ModelKind) -> EncoderModel:
        self.encoder_loads[encoder_setting(settings, kind)] += 1
        return fake_encoder_loader()(settings, kind)

    def measure(self, settings: Settings, kind: ModelKind) -> MemoryNeed | None:
        is_chat = kind is ModelKind.CHAT
        size = self._sizes.get(settings.model_name if is_chat else encoder_setting(settings, kind))
        return MemoryNeed(size * MIB, int(is_chat), int(is_chat), int(is_chat)) if size else None

    @property
    def num_open(self) -> int:
        return sum(not engine._runner.is_closed for engine in self.engines)


@asynccontextmanager
async def opened(zoo: Zoo, *further: str, **settings: Any) -> AsyncIterator[Client]:
    """A client of a server with the default model `fake` and these."""
    async with open_client(
        zoo.load, load_encoder=zoo.load_encoder, measure=zoo.measure, further_models=further, **settings
    ) as client:
        yield client


def slot_of(client: Client, name: str) -> ChatSlot:
    return next(slot for slot in client.services.registry.chatting() if slot.name == name)


def ask(client: httpx.AsyncClient, name: str, **more: Any) -> asyncio.Task[httpx.Response]:
    """A chat completion of this model, under way."""
    body = {"model": name, "messages": [{"content": "Hi"}], "max_tokens": 3, **more}
    return asyncio.create_task(client.post("/chat/completions", json=body))


async def states(client: Client, *kinds: str) -> dict[str, str]:
    """Of the models of these kinds, or of chat models."""
    listed = (await client.get("/models")).json()["data"]
    return {model["id"]: model["state"] for model in listed if model["kind"] in (kinds or ("chat",))}
