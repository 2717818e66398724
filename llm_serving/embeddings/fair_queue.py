"""Which texts come next: every request gets the same share of the tokens, whatever its size.

Weighted fair queueing (Demers, Keshav, Shenker 1989; equal weights). Virtual time advances by the tokens of a
batch over the number of requests that shared it. A request enters at the present virtual time and moves on
by the tokens it is given; who stands earliest is served next. So a short text that comes behind a request of
thousands goes into the next batch, and a stream of newcomers cannot starve anybody.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

import numpy as np

from llm_serving.embeddings.encoder import EncoderInput


class Job:
    """The texts of one request, shortest first, and the rows they become. Belongs to one event loop."""

    __slots__ = ("inputs", "rows", "loop", "future", "num_left", "order", "start")

    def __init__(self, inputs: list[EncoderInput], width: int, loop: asyncio.AbstractEventLoop) -> None:
        self.inputs = inputs
        self.rows = np.empty((len(inputs), width), np.float32)
        self.loop = loop
        self.future: asyncio.Future[np.ndarray] = loop.create_future()
        self.num_left = len(inputs)  # rows still missing
        # Popped from the end. The request is complete with its last text, so the order within is free, and
        # texts of like length suit encoders that pad.
        self.order = sorted(range(len(inputs)), key=lambda i: (len(inputs[i].token_ids), i), reverse=True)
        self.start = 0.0  # virtual time at which its next text is due


class FairQueue:
    """Jobs with texts that wait. Not thread-safe."""

    def __init__(self) -> None:
        self.num_texts = 0
        self._now = 0.0  # virtual time, in tokens
        self._arrivals = count()
        self._heap: list[tuple[float, int, Job]] = []  # (start, arrival, job); removed jobs are left in it
        self._jobs: set[Job] = set()

    def add(self, job: Job) -> None:
        job.start = self._now
        self._jobs.add(job)
        self.num_texts += len(job.order)
        heapq.heappush(self._heap, (job.start, next(self._arrivals), job))

    def remove(self, job: Job) -> None:
        """Forget what of `job` still waits; nothing if that is nothing."""
        if job in self._jobs:
            self._jobs.discard(job)
            self.num_texts -= len(job.order)

    def clear(self) -> list[Job]:
        """Remove all; the jobs that waited."""
        jobs = [job for _, _, job in sorted(self._heap, key=lambda entry: entry[1]) if job in self._jobs]
        self._heap.clear()
        self._jobs.clear()
        self.num_texts = 0
        return jobs

    def take(self, max_tokens: int) -> list[tuple[Job, int]]:
        """The next batch, as (job, index of its text): at least one text if any waits."""
        batch: list[tuple[Job, int]] = []
        num_tokens = 0
        num_jobs = max(1, len(self._jobs))
        while self._heap:
            _, arrival, job = self._heap[0]
            if job not in self._jobs:
                heapq.heappop(self._heap)
                continue
            length = len(job.inputs[job.order[-1]].token_ids)
            if batch and num_tokens + length > max_tokens:
                break
            batch.append((job, job.order.pop()))
            num_tokens += length
            job.start += length
            self.num_texts -= 1
            if job.order:
                heapq.heapreplace(self._heap, (job.start, arrival, job))
            else:
                heapq.heappop(self._heap)
                self._jobs.discard(job)
        self._now += num_tokens / num_jobs
        return batch
