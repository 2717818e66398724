"""Batches without a server: attempts, time, and lives that end in the middle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S

from llm_serving.errors import InvalidRequest, Overloaded
from llm_serving.service import batch_answers, batches
from llm_serving.service.batch_answers import Asked, answer_lines
from llm_serving.service.batch_lines import BatchLine, LineResult
from llm_serving.service.batch_work import work_on
from llm_serving.service.batches import AskFor, Batch, BatchStore
from llm_serving.service.files import FileStore, new_file_id

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def some_lines(count: int) -> list[BatchLine]:
    return [BatchLine(i + 1, f"r{i}", CHAT, {}) for i in range(count)]


async def good(owner: str, line: BatchLine) -> Asked:
    return Asked(200, b"{}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Callable[[AskFor], BatchStore]:
    """A life of the store in one folder."""

    def open_store(ask: AskFor, places: int = 2) -> BatchStore:
        files = FileStore(tmp_path, 1 << 20, clock)
        files.open()
        store = BatchStore(files, work_on, places, clock)
        store.start(ask, is_lasting=True)
        return store

    return open_store


def begin(store: BatchStore, count: int) -> Batch:
    lines = [{"custom_id": f"r{i}", "method": "POST", "url": CHAT, "body": {}} for i in range(count)]
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    with store.files.incoming(len(content)) as incoming:
        incoming.path.write_bytes(content)
        file = store.files.adopt(incoming.path, new_file_id(), "me", "in.jsonl", "batch")
    return store.add("me", CHAT, file.id)


async def until(condition: Callable[[], Any]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), PATIENCE_S)


async def close(store: BatchStore) -> None:
    await store.close()
    store.files.close()


def results(store: BatchStore, file_id: str | None) -> list[Any]:
    assert file_id is not None
    content = store.files.path(store.files.get("me", file_id)).read_bytes()
    return [json.loads(line) for line in content.splitlines()]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_answers, "_SHORTEST_S", 0.0)
    monkeypatch.setattr(batch_answers, "_LONGEST_S", 0.001)


@pytest.mark.usefixtures("hasty")
async def test_who_is_sent_away_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_answers, "PATIENCE_S", 0.005)
    said = {"r0": [429] * 20 + [200], "r1": [503] * 3 + [200], "r2": [503] * 1000, "r3": [500], "r4": [400]}
    kept: list[LineResult] = []

    async def ask(line: BatchLine) -> Asked:
        return Asked(said[line.custom_id].pop(0), b"{}", retry_after_s=9)

    await answer_lines(some_lines(5), ask, asyncio.Semaphore(2), kept.append)
    found = {result.custom_id: result.status for result in kept}
    assert found == {"r0": 200, "r1": 200, "r2": 503, "r3": 500, "r4": 400}
    assert 990 < len(said["r2"]) < 997


async def test_no_more_at_a_time_than_there_are_places() -> None:
    running = most = 0

    async def ask(line: BatchLine) -> Asked:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return Asked(200, b"{}")

    places = asyncio.Semaphore(3)
    kept: list[LineResult] = []
    await asyncio.gather(*(answer_lines(some_lines(10), ask, places, kept.append) for _ in range(2)))
    assert (most, len(kept), running) == (3, 20, 0)


@pytest.mark.parametrize("where", ["ask", "keep"])
async def test_what_fails_ends_all_and_gives_the_places_back(where: str) -> None:
    cancelled = []

    async def ask(line: BatchLine) -> Asked:
        if line.number == 2:
            if where == "ask":
                raise OSError("disk")
            return Asked(200, b"{}")
        try:
            await asyncio.sleep(PATIENCE_S)
        except asyncio.CancelledError:
            cancelled.append(line.number)
            raise
        raise AssertionError

    def keep(result: LineResult) -> None:
        raise OSError("disk")

    places = asyncio.Semaphore(3)
    with pytest.raises(OSError, match="disk"):
        await answer_lines(some_lines(100), ask, places, keep)
    assert sorted(cancelled) == [1, 3]
    for _ in range(3):
        await asyncio.wait_for(places.acquire(), PATIENCE_S)


async def test_what_is_not_begun_in_time_says_so(opened: Any, clock: Clock) -> None:
    async def ask(owner: str, line: BatchLine) -> Asked:
        if line.custom_id == "r1":
            clock.now += batches.WINDOW_S
        return Asked(200, b"{}")

    store = opened(ask, places=1)
    batch = begin(store, 4)
    await until(lambda: batch.has_ended)
    assert (batch.status, batch.completed, batch.failed) == ("expired", 2, 2)
    assert [line["custom_id"] for line in results(store, batch.output_file_id)] == ["r0", "r1"]
    codes = [(line["custom_id"], line["error"]["code"]) for line in results(store, batch.error_file_id)]
    assert codes == [("r2", "batch_expired"), ("r3", "batch_expired")]
    await close(store)


@pytest.mark.parametrize("step", ["show", "adopt"])
async def test_killed_while_it_finishes(opened: Any, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of finishing may be the last one of a life; the next brings the batch to the same end."""
    owner: Any = BatchStore if step == "show" else FileStore
    real = getattr(owner, step)

    def killed(self: Any, *args: Any) -> Any:
        done = real(self, *args)
        if "completed" in args or step == "adopt":
            raise asyncio.CancelledError
        return done

    monkeypatch.setattr(BatchStore, "show", killed if step == "show" else BatchStore.show)
    store = opened(good)
    batch = begin(store, 3)
    if step == "adopt":
        monkeypatch.setattr(FileStore, step, killed)
    await until(lambda: not store._tasks)
    await close(store)
    monkeypatch.undo()
    store = opened(good)
    again = store.get("me", batch.id)
    await until(lambda: again.has_ended)
    assert (again.status, again.completed, again.error_file_id) == ("completed", 3, None)
    assert len(results(store, again.output_file_id)) == 3
    assert len(store.files.all_of("me")) == 2
    await close(store)


async def test_a_batch_that_breaks_is_failed(opened: Any) -> None:
    async def ask(owner: str, line: BatchLine) -> Asked:
        raise RuntimeError("a bug")

    store = opened(ask)
    batch = begin(store, 3)
    await until(lambda: batch.has_ended)
    assert (batch.status, [problem["code"] for problem in batch.problems]) == ("failed", ["internal_error"])
    await close(store)


async def test_bounds(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_UNFINISHED", 2)
    monkeypatch.setattr(batches, "MAX_BATCHES", 4)
    never = asyncio.Event()

    async def ask(owner: str, line: BatchLine) -> Asked:
        await never.wait()
        return Asked(200, b"{}")

    store = opened(ask)
    made = [begin(store, 1), begin(store, 1)]
    with pytest.raises(Overloaded, match="2 batches are not done"):
        begin(store, 1)
    never.set()
    await until(lambda: all(batch.has_ended for batch in made))
    for _ in range(4):
        last = begin(store, 1)
        await until(lambda last=last: last.has_ended)
    assert [batch.id in {b.id for b in store.all_of("me")} for batch in made] == [False, False]
    assert len(store.all_of("me")) == len(list(store.files.folder.glob("batch_*"))) == 4
    await close(store)


async def test_files_go_when_their_time_is_over(opened: Any, clock: Clock) -> None:
    store = opened(good)
    batch = begin(store, 1)
    await until(lambda: batch.has_ended)
    clock.now += 31 * 24 * 3600
    assert store.files.all_of("me") == []
    assert [path.name for path in store.files.folder.iterdir() if path.name.startswith("file-")] == []
    with pytest.raises(InvalidRequest, match="no room"):
        store.files.require_room(2 << 20)
    await close(store)


async def test_what_was_never_complete_goes_at_the_next_start(opened: Any, tmp_path: Path) -> None:
    store = opened(good)
    batch = begin(store, 1)
    await until(lambda: batch.has_ended)
    await close(store)
    kept = {path.name for path in tmp_path.iterdir()}
    (tmp_path / f"{new_file_id()}.part").write_bytes(b"x")
    (tmp_path / new_file_id()).write_bytes(b"x")
    (tmp_path / f"{new_file_id()}.json").write_bytes(b"{}")
    (tmp_path / "batch_none.json").write_bytes(b"[")
    store = opened(good)
    assert {path.name for path in tmp_path.iterdir()} == kept | {"batch_none.json"}
    assert [other.id for other in store.all_of("me")] == [batch.id]
    await close(store)
