"""Hears the stop signal when it comes, not when the last connection has closed.

uvicorn runs an app's shutdown only after all connections have ended. So that running requests get a
deadline and new ones a clear refusal in between, the app listens to the same signals and passes them on.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_stop_signal(begin_drain: Callable[[], None]) -> Iterator[None]:
    """Call `begin_drain` on the running loop at SIGTERM or SIGINT, then the handler that stood before.

    Does nothing outside the main thread, or where no server has put a handler of its own.
    """
    loop = asyncio.get_running_loop()
    previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin_drain)
        previous[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and handler is not signal.default_int_handler:
                previous[number] = handler
                signal.signal(number, handle)
    try:
        yield
    finally:
        for signal_number, former in previous.items():
            if signal.getsignal(signal_number) is handle:
                signal.signal(signal_number, former)
