"""What a loaded model's first answers need not wait for: done once nobody waits for any answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from llm_serving.service.model import ChatModel
from llm_serving.service.slot import ModelSlot, ModelState

QUIET_S = 1.0  # so long nobody has asked any model for anything, and none has been loaded


class Quiet:
    """Has each chat model prepare for forms of answers, which stops every answer of this process meanwhile.

    All `slots` are looked at. Event loop only but for `expect`.
    """

    def __init__(self) -> None:
        self.slots: Sequence[ModelSlot[Any]] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[ModelSlot[ChatModel]] = []
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()

    def end(self) -> None:
        """What waits is not done; what is being done comes to its end."""
        self._loop = None
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def expect(self, slot: ModelSlot[ChatModel]) -> None:
        """Its model is about to be ready. Thread-safe."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has gone
                loop.call_soon_threadsafe(self._add, slot)

    def _add(self, slot: ModelSlot[ChatModel]) -> None:
        if self._loop is None:
            return
        self._waiting.append(slot)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        while self._waiting:
            while (left_s := self._left_s()) > 0:
                await asyncio.sleep(left_s)
            await _prepare(self._waiting.pop(0).model)

    def _left_s(self) -> float:
        """Seconds until it may be quiet."""
        if any(slot.is_used or slot.state is ModelState.LOADING for slot in self.slots):
            return QUIET_S
        return max(slot.last_used_s for slot in self.slots) + QUIET_S - time.monotonic()


async def _prepare(model: ChatModel | None) -> None:
    if model is not None and model.engine.takes_constraints:
        await asyncio.to_thread(model.constraints.prepare)
