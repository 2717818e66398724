"""The streams of an engine's requests. Each is read on the event loop it was asked for on, and each loop is
woken once for all that is new.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from llm_serving.engine.admission import check_id
from llm_serving.engine.protocol import Receive
from llm_serving.engine.request import TokenEvent
from llm_serving.errors import ServingError

Item = TokenEvent | ServingError  # an error ends a stream as a last event does


class AsyncTokenStream:
    """The events of one request; belongs to the event loop it was submitted on."""

    __slots__ = ("request_id", "loop", "_on_leave", "_items", "_waiter", "_receive", "_ended")

    def __init__(self, request_id: str, on_leave: Callable[[AsyncTokenStream], None]) -> None:
        self.request_id = request_id
        self.loop = asyncio.get_running_loop()
        self._on_leave = on_leave
        self._items: deque[Item] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._receive: Receive | None = None
        self._ended = False

    async def __aenter__(self) -> AsyncTokenStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ended = True
        self._items.clear()
        self._wake_up()
        self._on_leave(self)

    def __aiter__(self) -> AsyncTokenStream:
        return self

    async def __anext__(self) -> TokenEvent:
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._items.popleft()
        if isinstance(item, ServingError):
            self._ended = True
            raise item
        if item.finish_reason is not None:
            self._ended = True
        return item

    def subscribe(self, receive: Receive) -> None:
        """See `protocol.TokenStream`."""
        self._receive = receive
        while self._items:
            self.put(self._items.popleft())

    def put(self, item: Item) -> None:
        """Deliver; on the stream's own loop only."""
        if self._ended:
            return
        if self._receive is None:
            self._items.append(item)
            self._wake_up()
            return
        self._ended = isinstance(item, ServingError) or item.finish_reason is not None
        self._receive(item)

    def _wake_up(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Streams:
    """Of all requests that are accepted and have no last event yet. Thread-safe.

    `abort` is called with the id of a request whose reader has left before its end.
    """

    def __init__(self, abort: Callable[[str], None]) -> None:
        self._abort = abort
        self._lock = threading.Lock()
        self._open: dict[str, AsyncTokenStream] = {}

    def open(self, request_id: str, accept: Callable[[], None]) -> AsyncTokenStream:
        """The stream of a request that `accept` takes, on the running loop.

        Raises: InvalidRequest (id in use); whatever `accept` raises, and then there is no stream.
        """
        stream = AsyncTokenStream(request_id, self._leave)
        with self._lock:
            check_id(request_id, self._open)
            # Known before it is accepted: its first events may come at once.
            self._open[request_id] = stream
            try:
                accept()
            except BaseException:
                del self._open[request_id]
                raise
        return stream

    def emit(self, events: list[TokenEvent]) -> list[threading.Event]:
        """Hand events to their readers, one wake-up a loop; each is set once the readers of a loop have had
        their turn.
        """
        batches: dict[asyncio.AbstractEventLoop, list[tuple[AsyncTokenStream, Item]]] = {}
        for event in events:
            stream = self._open.get(event.request_id)
            if stream is None:
                continue
            if event.finish_reason is not None:
                self._open.pop(event.request_id, None)
            batches.setdefault(stream.loop, []).append((stream, event))
        return [self._hand_over(loop, batch) for loop, batch in batches.items()]

    def fail(self, request_id: str, error: ServingError) -> None:
        """End one by an error, if it is still open."""
        with self._lock:
            stream = self._open.pop(request_id, None)
        if stream is not None:
            self._hand_over(stream.loop, [(stream, error)])

    def fail_all(self, make_error: Callable[[], ServingError]) -> None:
        with self._lock:
            request_ids = list(self._open)
        for request_id in request_ids:
            self.fail(request_id, make_error())

    def _hand_over(
        self, loop: asyncio.AbstractEventLoop, batch: list[tuple[AsyncTokenStream, Item]]
    ) -> threading.Event:
        read = threading.Event()
        try:
            loop.call_soon_threadsafe(_deliver, batch, read)
        except RuntimeError:  # the loop is closed: nobody will ever read these
            for stream, _ in batch:
                self._leave(stream)
            read.set()
        return read

    def _leave(self, stream: AsyncTokenStream) -> None:
        if self._open.get(stream.request_id) is stream:
            self._open.pop(stream.request_id, None)
            self._abort(stream.request_id)


def _deliver(batch: list[tuple[AsyncTokenStream, Item]], read: threading.Event) -> None:
    for stream, item in batch:
        stream.put(item)
    asyncio.get_running_loop().call_soon(read.set)  # behind those that have just been woken
