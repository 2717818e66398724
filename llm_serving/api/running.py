"""Which services live in this process, for functions that are called without any handle.

The one thing here that is global: the seed's `generate_response(prompt)` names no server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llm_serving.api.deps import Services


@dataclass(frozen=True, slots=True)
class Running:
    """Services, and the event loop and the thread they live on."""

    services: Services
    loop: asyncio.AbstractEventLoop
    thread_id: int

    @classmethod
    def here(cls, services: Services) -> Running:
        return cls(services, asyncio.get_running_loop(), threading.get_ident())


_running: list[Running] = []  # in the order of their start


@contextmanager
def announced(running: Running) -> Iterator[None]:
    """`running` can be found until the end of this."""
    _running.append(running)
    try:
        yield
    finally:
        _running.remove(running)


def latest() -> Running | None:
    """What was started last and still runs."""
    return _running[-1] if _running else None
