"""The engine as services see it: bounded admission, one stream a request, cancellation by scope.

The engine thread starts with the first request, or at once if there is something to prepare. It wakes an
event loop once a step with all of the step's events; each stream remembers its loop, so one engine may serve
several loops.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Items

from llm_serving.engine.core import EngineCore
from llm_serving.engine.draft_model import DraftModel
from llm_serving.engine.protocol import EngineOptions, EngineStats, ModelRunner, Sampler
from llm_serving.engine.request import FinishReason, GenerateRequest, TokenEvent
from llm_serving.engine.streams import AsyncTokenStream, Streams
from llm_serving.engine.tier import BlockTier
from llm_serving.errors import EngineDead, RequestCancelled

# How long the next step waits for readers of the last one at most. They need a core and would take it from a
# kernel's worker, for which all others then wait; so late tokens are fewer and the rate is the same.
READERS_S = 0.002


class AsyncEngine:
    """`protocol.Engine` over a runner, a sampler and the bytes of each token.

    `close` must be called to end the engine thread and give the runner's memory back. Where it is not,
    the end of the process waits for the step at hand: a thread that Python ends inside C++ aborts it.
    """

    takes_constraints = takes_forms = True

    def __init__(
        self,
        runner: ModelRunner,
        sampler: Sampler,
        token_bytes: Items[bytes],
        options: EngineOptions,
        device: str,
        tier: BlockTier | None = None,
        prepare: Callable[[], bool] | None = None,
        draft_model: DraftModel | None = None,
    ) -> None:
        self._runner = runner
        self._draft_model = draft_model
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
            draft_model,
        )
        self._thread = threading.Thread(target=self._core.run, name="engine", daemon=True)
        self._streams = Streams(self._core.abort)
        self.vocab_size = runner.limits.vocab_size
        self.max_context = self._core.max_context
        if prepare is not None:
            self._start()

    def stats(self) -> EngineStats:
        return self._core.stats(self._device)

    async def submit(self, request: GenerateRequest) -> AsyncTokenStream:
        """Admit a request; never suspends, so a cancelled caller cannot lose an admitted one.

        Raises: Overloaded, EngineDead, ContextLengthExceeded, InvalidRequest (see `EngineCore.submit`).
        """
        return self._streams.open(request.request_id, lambda: self._accept(request))

    async def close(self, drain_s: float = 0.0) -> None:
        """Admit nothing more, wait for accepted requests, cancel the rest, close store and runners."""
        self._core.drain()
        if drain_s > 0:
            await asyncio.to_thread(self._core.wait_idle, drain_s)
        await asyncio.to_thread(self._end)
        atexit.unregister(self._end)
        self._streams.fail_all(RequestCancelled)
        await asyncio.to_thread(self._core.close)
        self._runner.close()
        if self._draft_model is not None:
            self._draft_model.close()

    def _accept(self, request: GenerateRequest) -> None:
        self._core.submit(request)
        if self._thread.ident is None:
            self._start()

    def _start(self) -> None:
        atexit.register(self._end)
        self._thread.start()

    def _end(self) -> None:
        self._core.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _emit(self, events: list[TokenEvent]) -> None:
        # Who has aborted does not read on, and the id may be another request's by now.
        begun = self._streams.emit(
            [event for event in events if event.finish_reason is not FinishReason.ABORT]
        )
        until_s = time.monotonic() + READERS_S
        for read in begun:
            read.wait(max(0.0, until_s - time.monotonic()))

    def _on_death(self, error: BaseException) -> None:
        self._streams.fail_all(lambda: EngineDead(error))
