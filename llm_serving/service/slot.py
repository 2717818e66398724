"""One model's life: not started → loading → ready → unloading → unloaded, or failed; then loading again.

A model that comes by itself is `available` instead of unloaded: the next request that names it has it loaded.
One whose engine died is loaded again, once: by a request if it comes by itself, or else after `REVIVE_S`.

Event loop only. Loading blocks a thread of its own, and nothing is locked meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from enum import Enum
from typing import Any, Generic

from llm_serving.errors import EngineDead, ModelLoading, ModelUnavailable, Overloaded, ServingError
from llm_serving.service.facts import ModelProfile
from llm_serving.service.load_thread import Model, discard_on_thread, load_on_thread
from llm_serving.service.memory import give_memory_back
from llm_serving.service.model import ModelKind
from llm_serving.service.reasons import one_line, without_folders

logger = logging.getLogger(__name__)

WAKE_WAIT_S = 60.0  # a request that has a model loaded waits so long for it; proxies mostly wait no longer
RETRY_S = 5.0  # so long after a load that failed, no request begins another
REVIVE_S = 10.0  # after the death of an engine; longer than Ray takes to replace its replica


class NoRoom(ServingError):
    """A model cannot be loaded now, for lack of memory; nothing is wrong with it."""


class ModelState(str, Enum):
    """Where a model is in its life."""

    NOT_STARTED = "not started"
    AVAILABLE = "available"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"


class ModelSlot(Generic[Model]):
    """Holds one model; `load` is called at most once at a time, however often `start` is.

    There are never two models: what is loaded after another waits until that one is freed. With `on_demand`
    requests have it loaded where it is available or failed, up to `max_waiting` of them wait meanwhile, and
    more are refused. `folders` are those of this machine that clients must not hear of.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Model],
        kind: ModelKind = ModelKind.CHAT,
        *,
        on_demand: bool = False,
        max_waiting: int = 64,
        folders: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.kind = kind
        self.on_demand = on_demand
        self.state = ModelState.NOT_STARTED
        self.reason = ""  # why it failed or was unloaded, one line
        self.profile: ModelProfile | None = None  # of the model when it was loaded last, or by its files
        self.last_used_s = time.monotonic()  # when it became ready, or its last request ended
        self._load = load
        self._max_waiting = max_waiting
        self._folders = folders
        self._num_users = 0
        self._retry_s = 0.0  # when requests may have it loaded again
        self._behind: ModelSlot[Any] | None = None
        self._model: Model | None = None
        self._attempt = 0
        self._settled = asyncio.Event()
        self._queued: asyncio.Task[None] | None = None
        self._freeing: asyncio.Task[None] | None = None
        self._revival: asyncio.TimerHandle | None = None

    def offer(self, behind: ModelSlot[Any]) -> None:
        """Have it loaded by the first request that names it, once `behind` has settled."""
        self._behind = behind
        self.state = ModelState.AVAILABLE
        self._settled.set()

    def start(self, after: ModelSlot[Any] | None = None) -> None:
        """Begin to load, unless it is loading or ready; not before `after` has settled, well or badly, and
        what was loaded before, or died, is freed.
        """
        if self.state in (ModelState.LOADING, ModelState.READY):
            return
        self.state = ModelState.LOADING
        self.reason = ""
        self._attempt += 1
        self._settled.clear()
        self._free()  # of an engine that died
        if after is None and self._freeing is None:
            self._spawn()
        else:
            self._queued = asyncio.ensure_future(self._spawn_after(after))

    async def _spawn_after(self, other: ModelSlot[Any] | None) -> None:
        if other is not None:
            await other.settled()
        await self.freed()
        self._spawn()

    def _spawn(self) -> None:
        attempt = self._attempt

        def settle(outcome: Model | BaseException) -> None:
            self._settle(attempt, outcome)

        load_on_thread(self.name, self._load, lambda: attempt == self._attempt, settle)

    async def settled(self) -> None:
        """Wait until loading has ended, well or badly."""
        await self._settled.wait()

    async def freed(self) -> None:
        """Wait until nothing is left of a former model."""
        if self._freeing is not None:
            await asyncio.shield(self._freeing)

    async def soon(self, wait_s: float) -> Model:
        """As `get`, but a model that is being loaded is waited for, up to `wait_s` seconds."""
        await self._no_longer_loading(wait_s)
        return self.get()

    async def _no_longer_loading(self, wait_s: float) -> None:
        if self.state is ModelState.LOADING:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.settled(), wait_s)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """A request needs the model from here on: until it ends, the model does not leave by itself."""
        self._num_users += 1
        try:
            yield
        finally:
            self._num_users -= 1
            self.last_used_s = time.monotonic()

    async def ask(self, wait_s: float = 0.0) -> Model:
        """The model for a request, within `used`. It is waited for, up to `wait_s` seconds while it is being
        loaded; one that comes on demand longer.

        Raises: as `get`; Overloaded if too many wait for it.
        """
        if self.model is None and self.on_demand:
            may_come = self.state in (ModelState.AVAILABLE, ModelState.FAILED)
            if may_come and time.monotonic() >= self._retry_s:
                self.start(after=self._behind)
            if self.state is ModelState.LOADING and self._num_users > self._max_waiting:
                raise Overloaded(f"{self._max_waiting} requests wait for '{self.name}' to load.", 5)
            wait_s = WAKE_WAIT_S
        return await self.soon(wait_s) if wait_s else self.get()

    def get(self) -> Model:
        """The model, ready to answer.

        Raises: ModelLoading, ModelUnavailable (with the reason).
        """
        if self.model is not None:
            return self.model
        if self.state is ModelState.LOADING:
            raise ModelLoading(self.name)
        raise ModelUnavailable(self.name, self.reason or f"it is {self.state.value}.")

    @property
    def model(self) -> Model | None:
        """The model if it can answer."""
        return self._model if self.state is ModelState.READY else None

    @property
    def can_answer(self) -> bool:
        """It answers at once, or has itself loaded for that."""
        return self.state in (ModelState.READY, ModelState.AVAILABLE)

    @property
    def is_used(self) -> bool:
        """A request needs it, or waits for it."""
        return self._num_users > 0

    @property
    def is_idle(self) -> bool:
        """It is in memory, and nobody needs it: it can answer, or its engine died."""
        could_leave = self.state in (ModelState.READY, ModelState.FAILED)
        return self._model is not None and could_leave and not self.is_used

    @property
    def is_leaving(self) -> bool:
        """A former model is being freed."""
        return self._freeing is not None

    @property
    def holds_memory(self) -> bool:
        """Whether there is anything of a model, or will be soon."""
        return self._model is not None or self.is_leaving or self.state is ModelState.LOADING

    async def rest(self) -> None:
        """Free a model that is idle; the next request has it loaded again. Returns when it is free."""
        logger.info("model %s leaves memory until a request names it", self.name)
        self._free()
        self.state = ModelState.AVAILABLE
        self.reason = ""
        self._retry_s = 0.0
        await self.freed()

    def fail(self, model: Model, error: BaseException) -> None:
        """The engine of `model` died: it is loaded again later. Late news of a former model is none."""
        if model is self.model:
            self.state = ModelState.FAILED
            self.reason = without_folders(one_line(error), self._folders)
            self._retry_s = time.monotonic() + RETRY_S
            trace = error.cause if isinstance(error, EngineDead) else None
            logger.error("model %s failed: %s", self.name, one_line(error), exc_info=trace)
            if not self.on_demand:
                loop = asyncio.get_running_loop()
                self._revival = loop.call_later(REVIVE_S, self._revive, self._attempt)

    def _revive(self, attempt: int) -> None:
        if self.state is ModelState.FAILED and attempt == self._attempt:
            self.start()

    async def unload(self, drain_s: float, reason: str, wait_s: float) -> None:
        """Refuse new requests, give running ones `drain_s` seconds, free the engine; returns when it is free.

        What is being loaded is waited for, up to `wait_s` seconds, and then unloaded. Cancelling ends the
        waiting only. Raises: ModelLoading (still, or again).
        """
        await self._no_longer_loading(wait_s)
        if self.state is ModelState.LOADING:
            raise ModelLoading(self.name)
        if self.state not in (ModelState.UNLOADING, ModelState.UNLOADED):
            self._free(drain_s)
            self.state = ModelState.UNLOADED if self._freeing is None else ModelState.UNLOADING
            self.reason = reason
        await self.freed()

    def close(self, drain_s: float = 0.0) -> Coroutine[Any, Any, None]:
        """The end of the server: refuse new requests at once, and do not wait for what is being loaded. Await
        the result: running requests get `drain_s` seconds, then the engine is freed.
        """
        self._free(drain_s)
        self.state = ModelState.UNLOADED
        self.reason = "the server is stopping."
        self._attempt += 1
        self._settled.set()
        for pending in (self._queued, self._revival):
            if pending is not None:
                pending.cancel()
        return self.freed()

    def _free(self, drain_s: float = 0.0) -> None:
        """Begin to close the model, if there is one; it is gone from here at once."""
        model, self._model = self._model, None
        if model is not None:
            self._freeing = asyncio.ensure_future(self._close(model, drain_s))

    async def _close(self, model: Model, drain_s: float) -> None:
        try:
            await model.close(drain_s)
        except Exception:  # it is as gone as it can be
            logger.exception("model %s did not close well", self.name)
        del model
        if self.state is not ModelState.UNLOADED:  # else the process ends, and all with it
            await asyncio.to_thread(give_memory_back)
        self._freeing = None
        if self.state is ModelState.UNLOADING:
            self.state = ModelState.UNLOADED
            logger.info("model %s is unloaded", self.name)

    def _settle(self, attempt: int, outcome: Model | BaseException) -> None:
        if attempt != self._attempt:
            discard_on_thread(self.name, outcome)
            return
        if isinstance(outcome, BaseException):
            self.state = ModelState.AVAILABLE if isinstance(outcome, NoRoom) else ModelState.FAILED
            self.reason = without_folders(one_line(outcome), self._folders)
            self._retry_s = time.monotonic() + RETRY_S
            trace = None if isinstance(outcome, ServingError) else outcome
            level = logging.WARNING if isinstance(outcome, NoRoom) else logging.ERROR
            logger.log(level, "model %s failed to load: %s", self.name, one_line(outcome), exc_info=trace)
        else:
            self._model, self.profile = outcome, outcome.profile
            self.state = ModelState.READY
            self.last_used_s = time.monotonic()
            logger.info("model %s is ready on %s", self.name, outcome.device)
        self._settled.set()
