"""Batches: files of requests, answered where there are places to spare, which go on after a restart."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from llm_serving.errors import BatchNotKept, InvalidRequest, Overloaded
from llm_serving.service.batch_answers import Asked
from llm_serving.service.batch_lines import BatchLine
from llm_serving.service.files import KEPT_S, FileStore, new_file_id, replace_bytes

logger = logging.getLogger(__name__)

MAX_BATCHES = 1000  # kept; those that have ended longest ago are forgotten
MAX_UNFINISHED = 64  # of one owner
WINDOW_S = 24 * 3600
ENDED = frozenset(("completed", "failed", "expired", "cancelled"))

OUTPUT, ERRORS = "output", "error"  # kinds of files of results

_FACTS = ".json"


@dataclass(slots=True)
class Batch:
    """One of them, as it is kept on disk. `times` has seconds since 1970 by the status they belong to."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    results_kept_s: int = KEPT_S
    status: str = "validating"
    outcome: str = ""  # the status that it will end with, once that is certain
    times: dict[str, int] = field(default_factory=dict)
    problems: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    completed: int = 0
    failed: int = 0
    result_ids: dict[str, str] = field(default_factory=dict)  # of files that may come to be
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


AskFor = Callable[[str, BatchLine], Awaitable[Asked]]  # owner and request
Work = Callable[["BatchStore", Batch, AskFor, asyncio.Semaphore], Awaitable[None]]


class BatchStore:
    """All batches of one server. Event loop only.

    `places`: how many requests of all batches run at a time. `work` brings one batch to its end. `clock`
    tells seconds since 1970.
    """

    def __init__(
        self, files: FileStore, work: Work, places: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.files = files
        self.clock = clock
        self._work = work
        self._num_places = places
        self._batches: dict[str, Batch] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ask: AskFor | None = None

    def start(self, ask: AskFor, *, is_lasting: bool) -> None:
        """Batches are worked on from now on; with `is_lasting` also those of a former life."""
        self._ask = ask
        self._places = asyncio.Semaphore(self._num_places)
        if not is_lasting:
            return
        for path in sorted(self.files.folder.glob(f"batch_*{_FACTS}")):
            with suppress(OSError, ValueError, TypeError):
                batch = Batch(**orjson.loads(path.read_bytes()))
                if batch.id + _FACTS == path.name:
                    self._batches[batch.id] = batch
        for batch in sorted(self._batches.values(), key=lambda batch: batch.created_at):
            if not batch.has_ended:
                logger.info("batch %s goes on", batch.id)
                self._begin(batch, ask)

    def add(
        self,
        owner: str,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None = None,
        results_kept_s: int = KEPT_S,
    ) -> Batch:
        """Begin one. Raises: InvalidRequest (no such file), Overloaded (too many are not done yet)."""
        if self._ask is None:
            raise InvalidRequest("Batches are not worked on here.")
        file = self.files.get(owner, input_file_id)
        if file.purpose != "batch":
            raise InvalidRequest("'input_file_id' must be a file of purpose batch.", "input_file_id")
        mine = [batch for batch in self._batches.values() if batch.owner == owner]
        if sum(not batch.has_ended for batch in mine) >= MAX_UNFINISHED:
            raise Overloaded(f"{MAX_UNFINISHED} batches are not done yet. Wait until one ends.", 60)
        self.files.require_room()
        self._forget()
        now = int(self.clock())
        batch_id = f"batch_{os.urandom(16).hex()}"
        batch = Batch(batch_id, owner, endpoint, file.id, now, now + WINDOW_S, metadata, results_kept_s)
        batch.result_ids = {kind: new_file_id() for kind in (OUTPUT, ERRORS)}
        self._batches[batch.id] = batch
        self.save(batch)
        self._begin(batch, self._ask)
        return batch

    def get(self, owner: str, batch_id: str) -> Batch:
        """Raises: BatchNotKept."""
        batch = self._batches.get(batch_id)
        if batch is None or batch.owner != owner:
            raise BatchNotKept(batch_id)
        return batch

    def all_of(self, owner: str) -> list[Batch]:
        """The latest last."""
        mine = [batch for batch in self._batches.values() if batch.owner == owner]
        return sorted(mine, key=lambda batch: batch.created_at)

    def cancel(self, batch: Batch) -> None:
        """What runs of it ends; results that are there stay. Raises: InvalidRequest, if it has ended."""
        if batch.has_ended:
            raise InvalidRequest(f"The batch is {batch.status}; it cannot be cancelled any more.")
        if batch.status != "cancelling":
            self.show(batch, "cancelling")
            self._tasks[batch.id].cancel()

    def show(self, batch: Batch, status: str) -> None:
        """It has come to this."""
        batch.status = status
        batch.times[status] = int(self.clock())
        self.save(batch)

    def save(self, batch: Batch) -> None:
        replace_bytes(self.files.folder / (batch.id + _FACTS), orjson.dumps(asdict(batch)))

    def part(self, batch: Batch, kind: str) -> Path:
        """Where its results are written while it runs."""
        return self.files.folder / f"{batch.id}.{kind}.part"

    def stop(self) -> None:
        """What runs of them ends; it is begun again in the next life."""
        for task in self._tasks.values():
            task.cancel()

    async def close(self) -> None:
        """The end of the server. What is not done stays so, and goes on at the next start."""
        self.stop()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _begin(self, batch: Batch, ask: AskFor) -> None:
        task = asyncio.ensure_future(self._run(batch, ask))
        self._tasks[batch.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(batch.id, None))

    async def _run(self, batch: Batch, ask: AskFor) -> None:
        try:
            await self._work(self, batch, ask, self._places)
        except Exception:
            logger.exception("batch %s failed", batch.id)
            batch.problems = [
                {"code": "internal_error", "message": "Something went wrong inside the server."}
            ]
            with suppress(OSError):
                self.show(batch, "failed")
        if batch.has_ended:
            logger.info(
                "batch %s is %s: requests=%d failed=%d", batch.id, batch.status, batch.total, batch.failed
            )

    def _forget(self) -> None:
        ended = [batch for batch in self._batches.values() if batch.has_ended]
        ended.sort(key=lambda batch: batch.created_at)
        for batch in ended[: max(0, len(self._batches) - MAX_BATCHES + 1)]:
            del self._batches[batch.id]
            for path in self.files.folder.glob(f"{batch.id}.*"):
                path.unlink(missing_ok=True)
