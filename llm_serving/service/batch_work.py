"""One batch from its file of requests to its files of results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from llm_serving.errors import FileNotKept
from llm_serving.service.batch_answers import Asked, answer_lines
from llm_serving.service.batch_lines import (
    BatchLine,
    LineProblem,
    LineResult,
    answered_ids,
    check_lines,
    lines_of,
    parse_line,
)
from llm_serving.service.batches import ERRORS, OUTPUT, AskFor, Batch, BatchStore


async def work_on(store: BatchStore, batch: Batch, ask: AskFor, places: asyncio.Semaphore) -> None:
    """Check it, answer what has no answer yet, and keep the results.

    Cancelled with status `cancelling` it ends with the results that are there, else it stays as it is.
    """
    if batch.outcome:  # of a former life that ended in the middle of this
        _finish(store, batch, batch.outcome)
        return
    try:
        file = store.files.get(batch.owner, batch.input_file_id)
    except FileNotKept as error:
        _refuse(store, batch, [LineProblem(str(error), param="input_file_id", code="file_not_found")])
        return
    path = store.files.path(file)
    try:
        if batch.status == "validating":
            batch.total, problems = await asyncio.to_thread(check_lines, path, batch.endpoint)
            if problems:
                _refuse(store, batch, problems)
                return
            store.show(batch, "in_progress")
        if batch.status == "in_progress":
            is_in_time = await _answer(store, batch, path, ask, places)
            _finish(store, batch, "completed" if is_in_time else "expired")
            return
    except asyncio.CancelledError:
        if batch.status != "cancelling":
            raise
    _finish(store, batch, "cancelled")  # also of a former life that could not finish it


def _refuse(store: BatchStore, batch: Batch, problems: list[LineProblem]) -> None:
    batch.problems = [problem._asdict() for problem in problems]
    store.show(batch, "failed")


async def _answer(
    store: BatchStore, batch: Batch, path: Path, ask: AskFor, places: asyncio.Semaphore
) -> bool:
    """Whether all were asked before the batch expired; the others have an error that says so."""
    parts = {True: store.part(batch, OUTPUT), False: store.part(batch, ERRORS)}
    good = await asyncio.to_thread(answered_ids, parts[True])
    bad = await asyncio.to_thread(answered_ids, parts[False])
    batch.completed, batch.failed = len(good), len(bad)
    is_in_time = True

    with ExitStack() as stack:
        files = {is_good: stack.enter_context(_appended(path)) for is_good, path in parts.items()}

        def keep(result: LineResult) -> None:
            files[result.is_good].write(result.to_line())
            files[result.is_good].flush()
            batch.completed += result.is_good
            batch.failed += not result.is_good

        def waiting() -> Iterator[BatchLine]:
            nonlocal is_in_time
            for number, raw in lines_of(stack.enter_context(path.open("rb"))):
                line = parse_line(number, raw, batch.endpoint)
                if line.custom_id in good or line.custom_id in bad:
                    continue
                if store.clock() < batch.expires_at:
                    yield line
                else:
                    is_in_time = False
                    message = "The batch was not done in time, and this request was not begun."
                    keep(LineResult(line.custom_id, 0, code="batch_expired", message=message))

        async def ask_owner(line: BatchLine) -> Asked:
            return await ask(batch.owner, line)

        await answer_lines(waiting(), ask_owner, places, keep)
    return is_in_time


def _appended(path: Path) -> BinaryIO:
    path.touch(mode=0o600)
    return path.open("ab")


def _finish(store: BatchStore, batch: Batch, outcome: str) -> None:
    """Keep its results. May be done again at any point."""
    if not batch.outcome:
        batch.outcome = outcome
        store.show(batch, batch.status if outcome == "cancelled" else "finalizing")
    for kind in (OUTPUT, ERRORS):
        path, file_id = store.part(batch, kind), batch.result_ids[kind]
        if path.exists() and path.stat().st_size:
            name = f"{batch.id}_{kind}.jsonl"
            store.files.adopt(path, file_id, batch.owner, name, "batch_output", batch.results_kept_s)
        path.unlink(missing_ok=True)
        if store.files.has(file_id):
            setattr(batch, f"{kind}_file_id", file_id)
    store.show(batch, outcome)
