"""One model's life: not started → loading → ready → unloaded, or failed.

Event loop only. Loading blocks a thread of its own, and nothing is locked meanwhile.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from llm_serving.errors import ModelLoading, ModelUnavailable, ServingError
from llm_serving.service.model import ModelKind

logger = logging.getLogger(__name__)


class ModelState(str, Enum):
    """Where a model is in its life."""

    NOT_STARTED = "not started"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADED = "unloaded"


class Loaded(Protocol):
    """What a slot needs of a model."""

    @property
    def device(self) -> str: ...

    async def close(self, drain_s: float = 0.0) -> None: ...


async def _nothing() -> None:
    """What closing is where no model is loaded."""


Model = TypeVar("Model", bound=Loaded)


class ModelSlot(Generic[Model]):
    """Holds one model; `load` is called at most once at a time, however often `start` is."""

    def __init__(self, name: str, load: Callable[[], Model], kind: ModelKind = ModelKind.CHAT) -> None:
        self.name = name
        self.kind = kind
        self.state = ModelState.NOT_STARTED
        self.reason = ""  # why it failed, one line
        self._load = load
        self._model: Model | None = None
        self._attempt = 0
        self._settled = asyncio.Event()
        self._queued: asyncio.Task[None] | None = None

    def start(self, after: ModelSlot[Any] | None = None) -> None:
        """Begin to load, unless it is loading or ready; not before `after` has settled, well or badly."""
        if self.state in (ModelState.LOADING, ModelState.READY):
            return
        self.state = ModelState.LOADING
        self.reason = ""
        self._attempt += 1
        self._settled.clear()
        if after is None:
            self._spawn()
        else:
            self._queued = asyncio.ensure_future(self._spawn_after(after))

    async def _spawn_after(self, other: ModelSlot[Any]) -> None:
        await other.settled()
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
        if self.state is ModelState.LOADING:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.settled(), wait_s)
        return self.get()

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

    def fail(self, error: BaseException) -> None:
        """The engine died: nothing will answer any more."""
        if self.state is ModelState.READY:
            self.state = ModelState.FAILED
            self.reason = one_line(error)
            logger.error("model %s failed: %s", self.name, self.reason)

    def close(self, drain_s: float = 0.0) -> Coroutine[Any, Any, None]:
        """Refuse new requests at once. Await the result: running ones get `drain_s` seconds, then the engine
        is freed.
        """
        model, self._model = self._model, None
        self.state = ModelState.UNLOADED
        self.reason = "the server is stopping."
        self._attempt += 1
        self._settled.set()
        if self._queued is not None:
            self._queued.cancel()
        return model.close(drain_s) if model is not None else _nothing()

    def _run(self, loop: asyncio.AbstractEventLoop, attempt: int) -> None:
        outcome: Model | BaseException
        try:
            outcome = self._load()
            if attempt == self._attempt:
                set_aside_what_stays(is_again=attempt > 1)
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


def set_aside_what_stays(*, is_again: bool) -> None:
    """Take all objects there are, less garbage, out of the garbage collector's sight.

    A model, its tokenizer and the modules stay for the life of the process; going through them stopped every
    answer for some 60 ms, once in a few seconds under load. So what was set aside for another model is left
    there, unless this is loaded again, and what it was before may be garbage.
    """
    if is_again:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)  # or extensions list all that Python has not freed when it ends


def one_line(error: BaseException) -> str:
    """What may be shown of an error: our own words as they are, of foreign ones the type only."""
    if isinstance(error, ServingError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}; the log says more."
