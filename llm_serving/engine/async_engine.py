"""The engine as services see it: bounded admission, one stream a request, cancellation by scope.

The engine thread starts with the first request, or at once if there is something to prepare. It wakes an
event loop once a step with all of the step's events; each stream remembers its loop, so one engine may serve
several loops.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Items

from llm_serving.engine.core import EngineCore
from llm_serving.engine.protocol import EngineOptions, EngineStats, ModelRunner, Receive, Sampler
from llm_serving.engine.request import GenerateRequest, TokenEvent
from llm_serving.engine.tier import BlockTier
from llm_serving.errors import EngineDead, InvalidRequest, RequestCancelled, ServingError

# How long the next step waits for readers of the last one at most. They need a core and would take it from a
# kernel's worker, for which all others then wait; so late tokens are fewer and the rate is the same.
READERS_S = 0.002


class AsyncTokenStream:
    """The events of one request; belongs to the event loop it was submitted on."""

    __slots__ = ("request_id", "loop", "_on_leave", "_items", "_waiter", "_receive", "_ended")

    def __init__(self, request_id: str, on_leave: Callable[[AsyncTokenStream], None]) -> None:
        self.request_id = request_id
        self.loop = asyncio.get_running_loop()
        self._on_leave = on_leave
        self._items: deque[TokenEvent | ServingError] = deque()
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

    def put(self, item: TokenEvent | ServingError) -> None:
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


class AsyncEngine:
    """`protocol.Engine` over a runner, a sampler and the bytes of each token.

    `close` must be called to end the engine thread and give the runner's memory back.
    """

    def __init__(
        self,
        runner: ModelRunner,
        sampler: Sampler,
        token_bytes: Items[bytes],
        options: EngineOptions,
        device: str,
        tier: BlockTier | None = None,
        prepare: Callable[[], bool] | None = None,
    ) -> None:
        self._runner = runner
        self._device = device
        self._core = EngineCore(
            runner,
            sampler,
            token_bytes,
            options,
            self._emit,
            self._on_death,
            tier,
            prepare or (lambda: False),
        )
        self._thread = threading.Thread(target=self._core.run, name="engine", daemon=True)
        self._lock = threading.Lock()
        self._streams: dict[str, AsyncTokenStream] = {}  # accepted, no last event sent yet
        self.vocab_size = runner.limits.vocab_size
        self.max_context = self._core.max_context
        if prepare is not None:
            self._thread.start()

    def stats(self) -> EngineStats:
        return self._core.stats(self._device)

    async def submit(self, request: GenerateRequest) -> AsyncTokenStream:
        """Admit a request; never suspends, so a cancelled caller cannot lose an admitted one.

        Raises: Overloaded, EngineDead, ContextLengthExceeded, InvalidRequest (see `EngineCore.submit`).
        """
        stream = AsyncTokenStream(request.request_id, self._leave)
        with self._lock:
            if request.request_id in self._streams:
                raise InvalidRequest(
                    f"A request with the id '{request.request_id}' is running. Use another.", "request_id"
                )
            # Known before it is accepted: its first events may come at once.
            self._streams[request.request_id] = stream
            try:
                self._core.submit(request)
            except BaseException:
                del self._streams[request.request_id]
                raise
            if self._thread.ident is None:
                self._thread.start()
        return stream

    async def close(self, drain_s: float = 0.0) -> None:
        """Admit nothing more, wait for accepted requests, cancel the rest, close the store and the runner."""
        self._core.drain()
        if drain_s > 0:
            await asyncio.to_thread(self._core.wait_idle, drain_s)
        self._core.stop()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)
        self._fail_all(RequestCancelled)
        await asyncio.to_thread(self._core.close)
        self._runner.close()

    def _emit(self, events: list[TokenEvent]) -> None:
        batches: dict[
            asyncio.AbstractEventLoop, list[tuple[AsyncTokenStream, TokenEvent | ServingError]]
        ] = {}
        for event in events:
            stream = self._streams.get(event.request_id)
            if stream is None:
                continue
            if event.finish_reason is not None:
                self._streams.pop(event.request_id, None)
            batches.setdefault(stream.loop, []).append((stream, event))
        begun = [self._hand_over(loop, batch) for loop, batch in batches.items()]
        until_s = time.monotonic() + READERS_S
        for read in begun:
            read.wait(max(0.0, until_s - time.monotonic()))

    def _on_death(self, error: BaseException) -> None:
        self._fail_all(lambda: EngineDead(error))

    def _fail_all(self, make_error: Callable[[], ServingError]) -> None:
        with self._lock:
            streams = list(self._streams.values())
            self._streams.clear()
        for stream in streams:
            self._hand_over(stream.loop, [(stream, make_error())])

    def _hand_over(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[tuple[AsyncTokenStream, TokenEvent | ServingError]],
    ) -> threading.Event:
        """Set once the readers of this batch have had their turn."""
        read = threading.Event()
        try:
            loop.call_soon_threadsafe(_deliver, batch, read)
        except RuntimeError:  # the loop is closed: nobody will ever read these
            for stream, _ in batch:
                self._leave(stream)
            read.set()
        return read

    def _leave(self, stream: AsyncTokenStream) -> None:
        if self._streams.get(stream.request_id) is stream:
            self._streams.pop(stream.request_id, None)
            self._core.abort(stream.request_id)


def _deliver(batch: list[tuple[AsyncTokenStream, TokenEvent | ServingError]], read: threading.Event) -> None:
    for stream, item in batch:
        stream.put(item)
    asyncio.get_running_loop().call_soon(read.set)  # behind those that have just been woken
