"""Names of contents, and pages that are given back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm_serving.checkpoints import content_digest, release
from llm_serving.checkpoints.mapped_file import map_file, stamp_files

SIZE = 3 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return path


def digest_of(path: Path) -> str | None:
    return content_digest(stamp_files([path]))


def write_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(SIZE // 3)
        file.write(b"other")


def replace(path: Path) -> None:
    data = path.read_bytes()
    path.with_name("new").write_bytes(data[:-1] + b"x")
    path.with_name("new").rename(path)


def keep_time(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        stat = path.stat()
        change(path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return changed


@pytest.mark.parametrize("change", [write_in_place, replace, keep_time(write_in_place), keep_time(replace)])
def test_every_change_gives_another_name(file: Path, change: Callable[[Path], None]) -> None:
    stamps = stamp_files([file])
    before = content_digest(stamps)
    assert before == digest_of(file)
    change(file)
    assert digest_of(file) not in (before, None)
    assert content_digest(stamps) is None, "what was opened is not what is there"


def test_all_files_of_a_model_count(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"x")
    assert content_digest(stamp_files([file, other])) != digest_of(file)
    other.unlink()
    assert stamp_files([file, other]) == ()
    assert content_digest(()) is None


def test_released_pages_come_back(file: Path) -> None:
    data = np.frombuffer(map_file(file), np.uint8)
    view = data[5000 : SIZE - 7]
    expected = file.read_bytes()[5000 : SIZE - 7]

    def resident_kib() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        start = next(i for i, line in enumerate(lines) if line.endswith(str(file)))
        return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))

    assert view.tobytes() == expected
    full = resident_kib()
    release(view)
    assert resident_kib() < full // 100
    assert view.tobytes() == expected


def test_release_leaves_other_arrays_alone() -> None:
    array = np.arange(10_000)
    release(array[5:])
    release(np.frombuffer(b"abc", np.uint8))
    assert array.sum() == 49_995_000
