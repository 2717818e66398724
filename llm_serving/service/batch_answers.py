"""The requests of a batch, as many at a time as there are places, each until it has an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import NamedTuple

from llm_serving.service.batch_lines import BatchLine, LineResult

PATIENCE_S = 600.0  # with a model that cannot answer: it may be loading again
_SHORTEST_S, _LONGEST_S = 0.1, 30.0  # between two attempts

_BUSY, _UNAVAILABLE = 429, 503


class Asked(NamedTuple):
    """What a request came to. `body` is JSON."""

    status: int
    body: bytes
    request_id: str = ""
    retry_after_s: float = 1.0


Ask = Callable[[BatchLine], Awaitable[Asked]]


async def answer_lines(
    lines: Iterable[BatchLine], ask: Ask, places: asyncio.Semaphore, on_result: Callable[[LineResult], None]
) -> None:
    """Ask all of them; `on_result` gets each result once, in the order in which they come.

    A line is taken when there is a place for it. Cancelling this ends what runs; those have no result then.
    Raises: what `lines`, `ask` and `on_result` raise, at once.
    """
    running: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    async def work(line: BatchLine) -> None:
        on_result(await _answer(line, ask))

    def over(task: asyncio.Task[None]) -> None:
        places.release()
        running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)

    waiting = iter(lines)
    try:
        while not failures and (line := await _next(waiting, places)) is not None:
            task = asyncio.ensure_future(work(line))
            running.add(task)
            task.add_done_callback(over)
        while running and not failures:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # callbacks of tasks run behind the tasks
    finally:
        left = list(running)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
    if failures:
        raise failures[0]


async def _next(waiting: Iterator[BatchLine], places: asyncio.Semaphore) -> BatchLine | None:
    """The next line, and a place for it; None behind the last one."""
    await places.acquire()
    line = None
    try:
        line = next(waiting, None)
        return line
    finally:
        if line is None:
            places.release()


async def _answer(line: BatchLine, ask: Ask) -> LineResult:
    waited_s = 0.0
    while True:
        asked = await ask(line)
        is_late = asked.status == _UNAVAILABLE and waited_s >= PATIENCE_S
        if is_late or asked.status not in (_BUSY, _UNAVAILABLE):
            return LineResult(line.custom_id, asked.status, asked.request_id, asked.body)
        pause_s = min(max(asked.retry_after_s, _SHORTEST_S), _LONGEST_S)
        waited_s += pause_s if asked.status == _UNAVAILABLE else 0.0
        await asyncio.sleep(pause_s)
