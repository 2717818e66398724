"""Names → models. An unknown name means the default model, unless names are strict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm_serving.config import Settings
from llm_serving.errors import ModelNotFound
from llm_serving.models import find_model
from llm_serving.service.loader import load_chat_model, public_name
from llm_serving.service.model import ChatModel
from llm_serving.service.slot import ModelSlot

LoadModel = Callable[[Settings], ChatModel]


class Registry:
    """The models of this server. Event loop only."""

    def __init__(self, settings: Settings, load: LoadModel = load_chat_model) -> None:
        self._strict = settings.strict_model_names
        self._drain_s = settings.drain_s
        self._closing: asyncio.Future[list[None]] | None = None
        self.default = ModelSlot(public_name(settings.model_name), lambda: load(settings))
        self._slots = {name.casefold(): self.default for name in _names(settings.model_name)}

    def find(self, name: str | None) -> ModelSlot:
        """The slot that answers to `name`.

        Raises: ModelNotFound (names are strict and this one is unknown).
        """
        slot = self._slots.get(name.strip().casefold()) if name else self.default
        if slot is None:
            if self._strict:
                raise ModelNotFound(name or "", f"Served here: {self.default.name}.")
            slot = self.default
        return slot

    def exact(self, name: str) -> ModelSlot:
        """As `find`, without the fallback."""
        slot = self._slots.get(name.strip().casefold())
        if slot is None:
            raise ModelNotFound(name, f"Served here: {self.default.name}.")
        return slot

    def slots(self) -> list[ModelSlot]:
        return [self.default]

    def aliases(self, slot: ModelSlot) -> list[str]:
        """Further names of a model; never a path of this machine."""
        spec = find_model(slot.name)
        return list(spec.aliases) if spec else []

    def start(self) -> None:
        """Begin to load every model; returns at once."""
        for slot in self.slots():
            slot.start()

    def begin_close(self) -> None:
        """Refuse new requests from now on and start to drain; returns at once."""
        if self._closing is None:
            self._closing = asyncio.gather(*(slot.close(self._drain_s) for slot in self.slots()))

    async def close(self) -> None:
        """Drain and unload."""
        self.begin_close()
        if self._closing is not None:
            await self._closing


def _names(model_name: str) -> set[str]:
    spec = find_model(model_name)
    aliases = spec.aliases if spec else ()
    return {model_name, public_name(model_name), *aliases}
