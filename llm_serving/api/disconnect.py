"""A client that leaves ends the work that was done for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")

# What is answered sooner is not worth watching: the task for it costs as much as a short text's answer.
_WATCH_AFTER_S = 0.1


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client leaves first. The body was read before.

    Raises: ClientDisconnect, and what `work` raises.
    """
    working = asyncio.ensure_future(work)
    watching: asyncio.Future[None] | None = None

    def watch() -> None:
        nonlocal watching
        watching = asyncio.ensure_future(_disconnected(receive))
        watching.add_done_callback(leave)

    def leave(watched: asyncio.Future[None]) -> None:
        if not watched.cancelled():
            watched.exception()  # a receive that fails is a client that left
            working.cancel()

    timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, watch)
    try:
        return await working
    except asyncio.CancelledError:
        if watching is not None and watching.done() and not watching.cancelled():
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
