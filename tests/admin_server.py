"""A server whose models are loaded and unloaded by request, on the fake engine."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fake_server import Client, fake_loader, open_client
from patience import PATIENCE_S

from llm_serving.config import Settings
from llm_serving.service.model import ChatModel

KEY = {"authorization": "Bearer k"}
CHAT: dict[str, Any] = {"messages": [{"content": "Hi"}], "max_tokens": 3}
ENDLESS: dict[str, Any] = {**CHAT, "max_tokens": 3000, "ignore_eos": True}
LOAD, UNLOAD = "/admin/models/fake/load", "/admin/models/fake/unload"
EMBEDDER = "/admin/models/fake-embed"


class Loads:
    """Counts what is loaded, and sees that nothing of a former model is left by then."""

    def __init__(self, **behaviour: Any) -> None:
        self.models: list[ChatModel] = []
        self.gate = threading.Event()
        self.gate.set()
        self.outcomes: list[Exception | None] = []  # of the next loads; None and no more = well
        self._load = fake_loader(**behaviour)

    def __call__(self, settings: Settings) -> ChatModel:
        assert self.num_open == 0
        assert self.gate.wait(PATIENCE_S)
        error = self.outcomes.pop(0) if self.outcomes else None
        if error is not None:
            raise error
        self.models.append(self._load(settings))
        return self.models[-1]

    @property
    def num_open(self) -> int:
        return sum(not model.engine._runner.is_closed for model in self.models)  # type: ignore[attr-defined]


@asynccontextmanager
async def opened(load: Loads | None = None, **settings: Any) -> AsyncIterator[Client]:
    async with open_client(load or Loads(), headers=KEY, api_key=("k",), **settings) as client:
        yield client


def state_of(client: Client) -> str:
    return client.services.registry.default.state.value


async def state_of_model(client: Client, name: str = "fake") -> str:
    return str((await client.get(f"/models/{name}")).json()["state"])
