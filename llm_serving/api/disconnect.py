"""A client that leaves ends the work that was done for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")

# What is answered sooner is not worth watching: the task for it costs as much as a short text's answer.
_WATCH_AFTER_S = 0.1


async def until_disconnect(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled if the client leaves first. The body was read before.

    `work` runs in the caller's own task: a second one would cost every request.
    Raises: ClientDisconnect, and what `work` raises.
    """
    task = asyncio.current_task()
    assert task is not None
    watching: asyncio.Future[None] | None = None
    is_over = has_left = False

    def watch() -> None:
        nonlocal watching
        watching = asyncio.ensure_future(_disconnected(receive))
        watching.add_done_callback(leave)

    def leave(watched: asyncio.Future[None]) -> None:
        nonlocal has_left
        if is_over or watched.cancelled():
            return
        watched.exception()  # a receive that fails is a client that left
        has_left = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if has_left:
            if sys.version_info >= (3, 11):
                task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        is_over = True
        timer.cancel()
        if watching is not None:
            watching.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
