"""The events of one response, numbered from 0: kept for readers that come, go and come again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from llm_serving.errors import InvalidRequest

MAX_EVENT_BYTES = 1 << 20  # of one response; a token's event has about 200


class EventLog:
    """The latest events, as they are sent. Event loop only; no reader holds up the writer.

    Beyond `max_bytes` the oldest are forgotten, but never those that were added last.
    """

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._events: list[bytes] = []
        self._first = 0  # the number of the first that is kept
        self._is_complete = False
        self._news = asyncio.Event()

    def add(self, events: Iterable[bytes]) -> None:
        """The next events, which readers get together."""
        num_former = len(self._events)
        self._events += events
        self.num_bytes += sum(map(len, self._events[num_former:]))
        num_forgotten = 0
        while self.num_bytes > self.max_bytes and num_forgotten < num_former:
            self.num_bytes -= len(self._events[num_forgotten])
            num_forgotten += 1
        del self._events[:num_forgotten]
        self._first += num_forgotten
        self._wake_up()

    def complete(self) -> None:
        """No event comes any more."""
        self._is_complete = True
        self._wake_up()

    def require(self, after: int) -> None:
        """Raises: InvalidRequest, if not all events behind number `after` are kept, or it is no event's."""
        last = self._first + len(self._events) - 1
        if after + 1 < self._first:
            raise InvalidRequest(
                f"Of the events, those before number {self._first} are not kept any more. Send "
                f"starting_after={self._first - 1}, or get the response without stream.",
                "starting_after",
            )
        if after > last:
            raise InvalidRequest(
                f"'starting_after' is the number of no event: the last one so far has {last}.",
                "starting_after",
            )

    async def read(self, after: int) -> AsyncIterator[bytes]:
        """Events behind number `after` as they come, joined where there are several, up to the last.

        Raises: as `require`, also on the way if the reader is too slow.
        """
        while True:
            self.require(after)
            news = self._news
            if events := self._events[after + 1 - self._first :]:
                after += len(events)
                yield b"".join(events)
            elif self._is_complete:
                return
            else:
                await news.wait()

    def _wake_up(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
