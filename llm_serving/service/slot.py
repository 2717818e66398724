"""One model's life: not started → loading → ready → unloading → unloaded, or failed; then loading again.

Event loop only. Loading blocks a thread of its own, and nothing is locked meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from llm_serving.errors import ModelLoading, ModelUnavailable, ServingError
from llm_serving.service.memory import give_memory_back, set_aside_what_stays
from llm_serving.service.model import ModelKind

logger = logging.getLogger(__name__)


class ModelState(str, Enum):
    """Where a model is in its life."""

    NOT_STARTED = "not started"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"


class Loaded(Protocol):
    """What a slot needs of a model."""

    @property
    def device(self) -> str: ...

    async def close(self, drain_s: float = 0.0) -> None: ...


Model = TypeVar("Model", bound=Loaded)


class ModelSlot(Generic[Model]):
    """Holds one model; `load` is called at most once at a time, however often `start` is.

    There are never two models: what is loaded after another waits until that one is freed.
    """

    def __init__(self, name: str, load: Callable[[], Model], kind: ModelKind = ModelKind.CHAT) -> None:
        self.name = name
        self.kind = kind
        self.state = ModelState.NOT_STARTED
        self.reason = ""  # why it failed or was unloaded, one line
        self._load = load
        self._model: Model | None = None
        self._attempt = 0
        self._settled = asyncio.Event()
        self._queued: asyncio.Task[None] | None = None
        self._freeing: asyncio.Task[None] | None = None

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
        await self._freed()
        self._spawn()

    def _spawn(self) -> None:
        # A daemon, so that leaving in the middle of a long download does not wait for its end.
        threading.Thread(
            target=self._run,
            args=(asyncio.get_running_loop(), self._attempt),
            name=f"load-{self.name}",
            daemon=True,
        ).start()

    async def settled(self) -> None:
        """Wait until loading has ended, well or badly."""
        await self._settled.wait()

    async def soon(self, wait_s: float) -> Model:
        """As `get`, but a model that is being loaded is waited for, up to `wait_s` seconds."""
        await self._no_longer_loading(wait_s)
        return self.get()

    async def _no_longer_loading(self, wait_s: float) -> None:
        if self.state is ModelState.LOADING:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.settled(), wait_s)

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

    def fail(self, model: Model, error: BaseException) -> None:
        """The engine of `model` died: it will not answer any more. Late news of a former model is none."""
        if model is self.model:
            self.state = ModelState.FAILED
            self.reason = one_line(error)
            logger.error("model %s failed: %s", self.name, self.reason)

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
        await self._freed()

    def close(self, drain_s: float = 0.0) -> Coroutine[Any, Any, None]:
        """The end of the server: refuse new requests at once, and do not wait for what is being loaded. Await
        the result: running requests get `drain_s` seconds, then the engine is freed.
        """
        self._free(drain_s)
        self.state = ModelState.UNLOADED
        self.reason = "the server is stopping."
        self._attempt += 1
        self._settled.set()
        if self._queued is not None:
            self._queued.cancel()
        return self._freed()

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

    async def _freed(self) -> None:
        """Wait until nothing is left of a former model."""
        if self._freeing is not None:
            await asyncio.shield(self._freeing)

    def _run(self, loop: asyncio.AbstractEventLoop, attempt: int) -> None:
        outcome: Model | BaseException
        try:
            outcome = self._load()
            if attempt == self._attempt:
                set_aside_what_stays()
        except BaseException as error:  # it is the loading thread's only way to tell
            outcome = error
        try:
            loop.call_soon_threadsafe(self._settle, attempt, outcome)
        except RuntimeError:  # the loop has gone
            discard(outcome)

    def _settle(self, attempt: int, outcome: Model | BaseException) -> None:
        if attempt != self._attempt:
            # Not a task of this loop, which may be about to end.
            threading.Thread(target=discard, args=(outcome,), name=f"discard-{self.name}").start()
            return
        if isinstance(outcome, BaseException):
            self.state = ModelState.FAILED
            self.reason = one_line(outcome)
            trace = None if isinstance(outcome, ServingError) else outcome
            logger.error("model %s failed to load: %s", self.name, self.reason, exc_info=trace)
        else:
            self._model = outcome
            self.state = ModelState.READY
            logger.info("model %s is ready on %s", self.name, outcome.device)
        self._settled.set()


def discard(outcome: Loaded | BaseException) -> None:
    """Free a model that came too late; nobody else will."""
    if not isinstance(outcome, BaseException):
        asyncio.run(outcome.close())


def one_line(error: BaseException) -> str:
    """What may be shown of an error: our own words as they are, of foreign ones the type only."""
    if isinstance(error, ServingError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}; the log says more."
