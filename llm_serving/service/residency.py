"""Which models are in memory: how much each may take, and which leave it.

Bytes are planned, not measured: pages of weights and of keys and values come and go by themselves, and what
was promised to one model must not be planned with by the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from llm_serving.backends.memory_need import MemoryNeed, kv_share
from llm_serving.native.cpu import process_memory_bytes
from llm_serving.service.model import ChatModel, EncoderModel
from llm_serving.service.slot import ModelSlot, NoRoom

AnySlot = ModelSlot[ChatModel] | ModelSlot[EncoderModel]

_LOOK_S = 5.0  # how often at least is looked for models that nobody uses


class Residency:
    """The memory of all `slots`. Event loop only but for `grant`.

    Those in `leaving` may leave it for others; those in `refused` are not loaded where there is no room.
    `memory` bytes are for all together; 0 = what the machine has, whenever a model is loaded.
    `unload_after_s`: how long a model is kept that nobody uses; 0 = for ever.
    """

    def __init__(self, memory: int, unload_after_s: float) -> None:
        self.slots: Sequence[AnySlot] = ()
        self.leaving: Sequence[AnySlot] = ()
        self.refused: Sequence[AnySlot] = ()
        self._capacity: Callable[[], int] = (lambda: memory) if memory else process_memory_bytes
        self._unload_after_s = unload_after_s
        self._planned: dict[AnySlot, int] = {}
        self._one_at_a_time = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look after the models from now on."""
        self._loop = asyncio.get_running_loop()
        if self._unload_after_s:
            self._watching = asyncio.ensure_future(self._watch())

    def end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def grant(self, slot: AnySlot, need: MemoryNeed) -> int:
        """Bytes for all of a model, for which others leave. Blocks; not on the event loop.

        Raises: NoRoom if one of `refused` does not fit beside those that stay; for others it is tried.
        """
        assert self._loop is not None, "models are loaded after `begin`"
        return asyncio.run_coroutine_threadsafe(self._make_room(slot, need), self._loop).result()

    async def _make_room(self, slot: AnySlot, need: MemoryNeed) -> int:
        async with self._one_at_a_time:  # or two would each take what the same model left
            others = [other for other in self.slots if other is not slot]
            # A conversation may be as long as it could be beside those that never leave, whatever is
            # loaded now: clients are told a model's context, and count on it.
            most = kv_share(need.weights, self._capacity() - self._held(others, without=self.leaving))
            least = need.weights + max(need.least_kv, min(need.conversation_kv, most))
            while (free := self._capacity() - self._held(others)) < least:
                if (leaving := next((other for other in others if other.is_leaving), None)) is not None:
                    await leaving.freed()
                    continue
                idle = [other for other in self.leaving if other is not slot and other.is_idle]
                if idle:
                    await min(idle, key=lambda other: other.last_used_s).rest()
                elif slot in self.refused:
                    raise NoRoom(
                        f"it needs {least >> 20} MiB of memory, and {max(0, free) >> 20} MiB are free beside "
                        "the models that stay or are answering."
                    )
                else:
                    break
            share = max(kv_share(need.weights, free), least - need.weights if free >= least else 0)
            self._planned[slot] = need.weights + max(0, min(need.most_kv, share))
            return self._planned[slot]

    def _held(self, slots: Sequence[AnySlot], without: Sequence[AnySlot] = ()) -> int:
        return sum(self._bytes_of(slot) for slot in slots if slot.holds_memory and slot not in without)

    def _bytes_of(self, slot: AnySlot) -> int:
        """What was granted, or about that where nobody could tell before."""
        if slot in self._planned:
            return self._planned[slot]
        return slot.model.facts.num_bytes if slot.model is not None and slot.model.facts is not None else 0

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_S, self._unload_after_s / 4))
            unused_since_s = time.monotonic() - self._unload_after_s
            for slot in self.slots:
                if slot.is_idle and slot.last_used_s <= unused_since_s:
                    await slot.rest()
