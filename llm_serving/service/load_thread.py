"""Loading on a thread of its own: it blocks, and the event loop hears of its outcome."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from llm_serving.service.facts import ModelProfile
from llm_serving.service.memory import set_aside_what_stays


class Loaded(Protocol):
    """What a slot needs of a model."""

    @property
    def device(self) -> str: ...

    @property
    def profile(self) -> ModelProfile: ...

    async def close(self, drain_s: float = 0.0) -> None: ...


Model = TypeVar("Model", bound=Loaded)
_LOADING, _DISCARDING = "load-", "discard-"  # names of threads begin so


def load_on_thread(
    name: str,
    load: Callable[[], Model],
    is_wanted: Callable[[], bool],
    settle: Callable[[Model | BaseException], None],
) -> None:
    """Call `load`, and then `settle` on this event loop; returns at once.

    A daemon, so that leaving in the middle of a long download does not wait for its end.
    """
    loop = asyncio.get_running_loop()

    def run() -> None:
        outcome: Model | BaseException
        try:
            outcome = load()
            if is_wanted():
                set_aside_what_stays()
        except BaseException as error:  # it is the thread's only way to tell
            outcome = error
        try:
            loop.call_soon_threadsafe(settle, outcome)
        except RuntimeError:  # the loop has gone
            _discard(outcome)

    threading.Thread(target=run, name=f"{_LOADING}{name}", daemon=True).start()


def wait_for_loads(seconds: float) -> None:
    """Let loads that are on their way come to their end, and what came too late be freed, for no longer than
    this: a process that ends in the middle of either leaves with complaints. Their loop has ended."""
    end_s = time.monotonic() + seconds
    for thread in threading.enumerate():
        if thread.name.startswith((_LOADING, _DISCARDING)):
            thread.join(max(0.0, end_s - time.monotonic()))


def discard_on_thread(name: str, outcome: Loaded | BaseException) -> None:
    """Free what came too late. Not a task of this loop, which may be about to end."""
    threading.Thread(target=_discard, args=(outcome,), name=f"{_DISCARDING}{name}").start()


def _discard(outcome: Loaded | BaseException) -> None:
    if not isinstance(outcome, BaseException):
        asyncio.run(outcome.close())
