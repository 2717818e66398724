"""Texts of many requests in one encoder: token-budget batches, a fair share for everyone, bounded admission.

The worker thread starts with the first request. It wakes an event loop once a batch that finishes requests of
that loop; each request remembers its loop, so one batcher may serve several.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np

from llm_serving.embeddings.encoder import Encoder, EncoderInput
from llm_serving.embeddings.fair_queue import FairQueue, Job
from llm_serving.errors import EngineDead, Overloaded, RequestCancelled

logger = logging.getLogger(__name__)

MAX_BATCH_TOKENS = 1024  # enough for the kernels' full rate, little enough for a newcomer to wait for
MAX_ARRIVING = 64  # requests that wait for their event loop to settle; a busy one need not ever
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # upper bounds of `BatcherStats.batch_sizes`, then infinity


@dataclass(frozen=True, slots=True)
class BatcherStats:
    """A snapshot, cheap to take from any thread. All but the first two are totals since the start."""

    num_waiting: int = 0  # texts in the queue
    num_running: int = 0  # texts in the batch at work
    num_requests: int = 0
    num_texts: int = 0
    num_tokens: int = 0
    num_batches: int = 0
    busy_seconds: float = 0.0
    batch_sizes: tuple[int, ...] = (0,) * (len(BATCH_SIZES) + 1)  # batches by number of texts, not cumulative


class Batcher:
    """Takes an encoder over; `close` must be called to end the thread and free it.

    A batch holds up to `max_batch_tokens` tokens, or one text that is longer. `max_queue_texts` texts may
    wait; a request that finds the queue empty is admitted whatever its size.
    """

    def __init__(self, encoder: Encoder, *, max_batch_tokens: int, max_queue_texts: int) -> None:
        self.dimensions = encoder.dimensions
        self.max_tokens = encoder.max_tokens
        self.device = encoder.device
        self._encoder = encoder
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_texts = max_queue_texts
        self._changed = threading.Condition()  # guards all below
        self._queue = FairQueue()
        self._arriving: dict[asyncio.AbstractEventLoop, list[Job]] = {}  # see `_settle`
        self._num_arriving = 0  # texts in it
        self._num_requests = 0
        self._running: list[tuple[Job, int]] = []
        self._is_draining = False
        self._is_stopped = False
        self._death: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._totals = BatcherStats()

    def stats(self) -> BatcherStats:
        with self._changed:
            return replace(
                self._totals,
                num_waiting=self._num_waiting(),
                num_running=len(self._running),
                num_requests=self._num_requests,
            )

    def require_room(self, num_texts: int) -> None:
        """Say at once, before any text is tokenised, what `encode` would say of so many texts.

        Raises: Overloaded (queue full, or closing), EngineDead.
        """
        with self._changed:
            self._require_room(num_texts)

    async def encode(self, inputs: list[EncoderInput]) -> np.ndarray:
        """float32 [len(inputs), dimensions], in the order of `inputs`. Cancelling drops what has not begun.

        Raises: Overloaded, EngineDead, RequestCancelled (closed meanwhile), RuntimeError (the encoder failed
        on a batch with one of these texts; its own error is the cause).
        """
        if not inputs:
            return np.empty((0, self.dimensions), np.float32)
        job = Job(inputs, self.dimensions, asyncio.get_running_loop())
        with self._changed:
            self._require_room(len(inputs))
            self._num_requests += 1
            self._num_arriving += len(inputs)
            arriving = self._arriving.setdefault(job.loop, [])
            arriving.append(job)
            if len(arriving) == 1:
                job.loop.call_soon(self._settle, job.loop, 0)
            if self._thread.ident is None:
                atexit.register(self._end)  # or Python ends it inside C++, which aborts the process
                self._thread.start()
        try:
            return await job.future
        except asyncio.CancelledError:
            with self._changed:
                self._queue.remove(job)
                if job in (arriving := self._arriving.get(job.loop, [])):
                    arriving.remove(job)
                    self._num_arriving -= len(inputs)
                self._changed.notify_all()
            raise

    async def close(self, drain_s: float = 0.0) -> None:
        """Admit nothing more, give accepted requests `drain_s` seconds, cancel the rest, free the encoder."""
        with self._changed:
            self._is_draining = True
        if drain_s > 0:
            await asyncio.to_thread(self._wait_idle, drain_s)
        _resolve(self._stop(), RequestCancelled())  # before any wait, in which another batch would begin
        await asyncio.to_thread(self._end)
        atexit.unregister(self._end)
        self._encoder.close()

    def _stop(self) -> list[Job]:
        """Begin no further batch; the requests that will not be answered."""
        with self._changed:
            self._is_stopped = True
            waiting = self._clear()
            self._changed.notify_all()
        return waiting

    def _end(self) -> None:
        """Stop, and wait for the batch at hand."""
        self._stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _require_room(self, num_texts: int) -> None:
        if self._death is not None:
            raise EngineDead(self._death)
        if self._is_draining:
            raise Overloaded("The model takes no new requests: it is being unloaded, or the server stops.")
        waiting = self._num_waiting()
        if waiting and waiting + num_texts > self._max_queue_texts:
            raise Overloaded(f"{waiting} texts are waiting; no room for {num_texts} more. Try again later.")

    def _settle(self, loop: asyncio.AbstractEventLoop, num_seen: int) -> None:
        """Queue the requests of `loop` once it has nothing more to read.

        Answers of a batch bring the next requests at once. The first of them would be a batch of one, which
        takes a core from the others' reading and then makes them wait.
        """
        with self._changed:
            arriving = self._arriving.get(loop, [])
            if num_seen < len(arriving) < MAX_ARRIVING:
                loop.call_soon(self._settle, loop, len(arriving))
                return
            for job in arriving:
                self._queue.add(job)
                self._num_arriving -= len(job.inputs)
            self._arriving.pop(loop, None)
            self._changed.notify_all()

    def _num_waiting(self) -> int:
        return self._queue.num_texts + self._num_arriving

    def _clear(self) -> list[Job]:
        """Remove all that wait; in order of arrival."""
        arriving = [job for jobs in self._arriving.values() for job in jobs]
        self._arriving.clear()
        self._num_arriving = 0
        return self._queue.clear() + arriving

    def _wait_idle(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._num_waiting() and not self._running, seconds)

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                finished, failed, error = self._encode(batch)
                with self._changed:
                    self._running = []
                    for job in failed:
                        self._queue.remove(job)
                    self._changed.notify_all()
                _resolve(finished)
                _resolve(failed, error)
        except BaseException as error:  # nobody will run a batch any more, and everybody must hear it
            with self._changed:
                self._death = error
                jobs = dict.fromkeys([*(job for job, _ in self._running), *self._clear()])
                self._running = []
                self._changed.notify_all()
            logger.error("the encoder's thread died", exc_info=error)
            _resolve(list(jobs), EngineDead(error))

    def _next_batch(self) -> list[tuple[Job, int]]:
        """Wait for work; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue.num_texts or self._is_stopped)
            if self._is_stopped:
                return []
            self._running = self._queue.take(self._max_batch_tokens)
            return self._running

    def _encode(self, batch: list[tuple[Job, int]]) -> tuple[list[Job], list[Job], BaseException | None]:
        """Run a batch and keep its rows: the jobs it completed, those it failed, and of what."""
        inputs = [job.inputs[index] for job, index in batch]
        jobs = list(dict.fromkeys(job for job, _ in batch))
        started_s = time.monotonic()
        try:
            rows = self._encoder.encode(inputs)
            if rows.shape != (len(batch), self.dimensions):
                raise ValueError(f"the encoder returned {rows.shape} for {len(batch)} texts")
        except Exception as error:
            logger.error("a batch of %d texts failed", len(batch), exc_info=error)
            return [], jobs, error
        self._count(inputs, time.monotonic() - started_s)
        is_finite = np.isfinite(rows).all(axis=1)
        for (job, index), row in zip(batch, rows, strict=True):
            job.rows[index] = row
            job.num_left -= 1
        failed = list(dict.fromkeys(job for (job, _), ok in zip(batch, is_finite, strict=True) if not ok))
        finished = [job for job in jobs if not job.num_left and job not in failed]
        return finished, failed, ValueError("the encoder returned NaN or infinity") if failed else None

    def _count(self, inputs: list[EncoderInput], seconds: float) -> None:
        num_tokens = sum(len(item.token_ids) for item in inputs)
        at = bisect_left(BATCH_SIZES, len(inputs))
        with self._changed:
            old = self._totals
            sizes = old.batch_sizes
            self._totals = replace(
                old,
                num_texts=old.num_texts + len(inputs),
                num_tokens=old.num_tokens + num_tokens,
                num_batches=old.num_batches + 1,
                busy_seconds=old.busy_seconds + seconds,
                batch_sizes=(*sizes[:at], sizes[at] + 1, *sizes[at + 1 :]),
            )


def _resolve(jobs: list[Job], error: BaseException | None = None) -> None:
    """Hand results or the error over, one wake-up a loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        loops.setdefault(job.loop, []).append(job)
    for loop, group in loops.items():
        try:
            loop.call_soon_threadsafe(_deliver, group, error)
        except RuntimeError:  # the loop is closed: nobody waits there any more
            continue


def _deliver(jobs: list[Job], error: BaseException | None) -> None:
    for job in jobs:
        if job.future.done():  # cancelled meanwhile
            continue
        if error is None:
            job.future.set_result(job.rows)
        else:
            job.future.set_exception(_for_one_waiter(error))


def _for_one_waiter(error: BaseException) -> BaseException:
    """An error of its own for each, since raising one writes to it."""
    if isinstance(error, EngineDead):
        return EngineDead(error.cause)
    if isinstance(error, RequestCancelled):
        return RequestCancelled()
    own = RuntimeError("The encoder failed on this batch.")
    own.__cause__ = error
    return own
