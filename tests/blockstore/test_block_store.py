"""The store: what it keeps, what it lets go, and that no disk makes it raise."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S, wait_until

from llm_serving.blockstore import store as store_module
from llm_serving.blockstore.store import DiskBlockStore

SIZE = 1000
FILE = 1064
Open = Callable[..., DiskBlockStore]


def name(number: int) -> bytes:
    return number.to_bytes(16, "little")


def data(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SIZE).astype(np.uint8)


@pytest.fixture
def open_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    monkeypatch.setattr(store_module, "GATHER_S", 0.001)
    opened = []

    def go(limit: int = 1 << 20, model: bytes = name(7), directory: Path = tmp_path / "kv") -> DiskBlockStore:
        opened.append(DiskBlockStore(directory, limit, model, SIZE))
        return opened[-1]

    yield go
    for each in opened:
        each.close()


def save(store: DiskBlockStore, number: int, depth: int = 0) -> bool:
    return store.save(name(number), depth, partial(np.copyto, src=data(number)))


def loads(store: DiskBlockStore, number: int) -> bool:
    out = np.zeros(SIZE, np.uint8)
    is_there = store.load(name(number), 0, out)
    assert not is_there or out.tobytes() == data(number).tobytes()
    return is_there


def written(store: DiskBlockStore, count: int) -> None:
    wait_until(lambda: store.num_written >= count)


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def test_blocks_are_there_after_a_restart(open_store: Open, tmp_path: Path) -> None:
    first = open_store()
    assert not first.has(name(1))
    assert not first.touch(name(1), 0)
    assert save(first, 1)
    assert save(first, 2)
    first.close()
    assert first.num_written == 2
    assert first.num_bytes == 2 * FILE
    assert not save(first, 3) or not loads(first, 3)
    again = open_store()
    assert again.has(name(1))
    assert loads(again, 1)
    assert loads(again, 2)
    assert not loads(again, 3)
    assert again.num_read == 2
    assert again.touch(name(1), 0)
    wait_until(lambda: again.num_bytes == 2 * FILE)
    assert (tmp_path / "kv").stat().st_mode & 0o077 == 0


def test_other_models_share_the_room_and_nothing_else(open_store: Open) -> None:
    first = open_store()
    save(first, 1)
    written(first, 1)  # not before: the other one looks through the directory when it opens
    other = open_store(model=name(8))
    assert not other.has(name(1))
    assert not loads(other, 1)
    wait_until(lambda: other.num_bytes == FILE)


def test_a_damaged_file_is_removed_with_one_line(
    open_store: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    save(store, 1)
    written(store, 1)
    (path,) = files(tmp_path / "kv")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert not loads(store, 1)
    assert files(tmp_path / "kv") == []
    assert not store.touch(name(1), 0), "it can be saved again"
    assert [record.getMessage() for record in caplog.records] == [
        f"the block {path} is removed: it is damaged, or another block"
    ]


def test_the_directory_stays_within_its_bound(open_store: Open, tmp_path: Path) -> None:
    store = open_store(limit=20 * FILE)
    for number in range(70):
        while not save(store, number):
            time.sleep(0.001)
        assert len(files(tmp_path / "kv") if (tmp_path / "kv").exists() else []) <= 21  # one is partial
    store.close()
    assert 14 <= len(files(tmp_path / "kv")) <= 20
    assert store.num_bytes == len(files(tmp_path / "kv")) * FILE


def test_what_was_not_used_for_longest_goes_first(open_store: Open, tmp_path: Path) -> None:
    """Of one prefix, the end goes before the beginning."""
    store = open_store(limit=8 * FILE)
    for number in range(7):
        save(store, number, depth=number)
    written(store, 7)
    store.close()
    for path in files(tmp_path / "kv"):
        os.utime(path, ns=(0, path.stat().st_mtime_ns - 100 * 10**9))
    again = open_store(limit=8 * FILE)
    assert loads(again, 6)
    assert loads(again, 5)  # which count as used now
    for number in (10, 11):
        save(again, number)
    again.close()
    left = {int.from_bytes(bytes.fromhex(path.stem[33:]), "little") for path in files(tmp_path / "kv")}
    assert left == {0, 1, 2, 5, 6, 10, 11}


def test_only_own_files_are_removed(open_store: Open, tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir()
    foreign = [tmp_path / "kv" / name for name in ("notes.kv", "0123abcd.partial", "a-b.kv")]
    abandoned, young = tmp_path / "kv" / "0123abcd-1.partial", tmp_path / "kv" / "0123abcd-2.partial"
    for path in (*foreign, abandoned, young):
        path.write_bytes(bytes(5000))
    for path in (*foreign, abandoned):
        os.utime(path, (0, 0))
    store = open_store(limit=FILE)
    save(store, 1)
    save(store, 2)
    store.close()
    assert set(files(tmp_path / "kv")) >= {*foreign, young}
    assert abandoned not in files(tmp_path / "kv")


def test_a_store_that_is_busy_says_so(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    slow = store_module.write_block

    def write_slowly(*args: object) -> None:
        assert go_on.wait(PATIENCE_S)
        slow(*args)

    monkeypatch.setattr(store_module, "write_block", write_slowly)
    monkeypatch.setattr(store_module, "QUEUE_BYTES", 6 * SIZE)
    store = open_store()
    assert [save(store, number) for number in range(8)] == [True] * 6 + [False] * 2
    go_on.set()
    written(store, 6)
    wait_until(lambda: save(store, 8))
    store.close()
    assert [loads(store, number) for number in range(9)] == [True] * 6 + [False] * 2 + [True]


def test_closing_does_not_wait_for_ever(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(store_module, "write_block", lambda *args: go_on.wait(PATIENCE_S))
    store = open_store()
    save(store, 1)
    started_s = time.monotonic()
    store.close(timeout_s=0.05)
    assert 0.04 < time.monotonic() - started_s < PATIENCE_S / 2
    go_on.set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_costs_one_line(
    open_store: Open, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    save(store, 1)
    written(store, 1)

    def refuse(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "writev", refuse)
    assert save(store, 2)
    wait_until(lambda: caplog.records)
    monkeypatch.undo()
    wait_until(lambda: store.touch(name(3), 0))
    assert [save(store, n) for n in range(3, 200)] == [True] * 197
    assert store.touch(name(2), 0), "nothing more is to be saved"
    assert loads(store, 1), "reading goes on"
    store.close()
    assert len(caplog.records) == 1
    assert os.strerror(number) in caplog.text


def test_no_directory(open_store: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store = open_store(directory=tmp_path / "file" / "kv")
    wait_until(lambda: caplog.records)
    assert not store.has(name(1))
    assert not loads(store, 1)
    assert save(store, 1)
    store.close()
    assert [record.levelno for record in caplog.records].count(logging.WARNING) <= 2


def test_a_directory_that_goes_away(
    open_store: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    save(store, 1)
    written(store, 1)
    shutil.rmtree(tmp_path / "kv")
    assert not loads(store, 1)
    save(store, 2)
    wait_until(lambda: caplog.records)
    assert not loads(store, 2)
    store.close()
    assert len(caplog.records) == 1


def test_a_block_that_is_there_is_not_written_again(open_store: Open) -> None:
    """Two servers of one directory compute the same prompt."""
    first, second = open_store(), open_store()
    save(first, 1)
    written(first, 1)
    assert second.has(name(1))
    save(second, 1)
    wait_until(lambda: second.touch(name(1), 0))
    assert second.num_written == 0
    assert loads(second, 1)
