"""One block's file: whatever has happened to it, it gives the block or an error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm_serving.blockstore.block_file import HEADER_BYTES, BlockFileError, read_block, write_block

MODEL, DIGEST = b"a model, 16 long", b"tokens, 16 bytes"
DATA = np.random.default_rng(1).integers(0, 256, 96).astype(np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_block(tmp_path / "block", tmp_path / "partial", MODEL, DIGEST, DATA)
    assert [each.name for each in tmp_path.iterdir()] == ["block"]
    return tmp_path / "block"


def read(path: Path, model: bytes = MODEL, digest: bytes = DIGEST, size: int = 96) -> bytes:
    out = np.zeros(size, np.uint8)
    read_block(path, model, digest, out)
    return out.tobytes()


def test_what_was_written_is_read(path: Path) -> None:
    assert read(path) == DATA.tobytes()
    assert path.stat().st_mode & 0o077 == 0, "others may not read what users wrote"


def test_cut_short_anywhere(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    for size in range(path.stat().st_size, -1, -1):
        os.truncate(path, size)
        if size != HEADER_BYTES + DATA.nbytes:
            with pytest.raises(BlockFileError):
                read(path)


def test_a_file_system_that_had_room_and_no_data(path: Path) -> None:
    whole = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for begin in range(len(whole) - 1, -1, -1):
            os.pwrite(file.fileno(), b"\0", begin)
            if whole[begin:].strip(b"\0"):
                with pytest.raises(BlockFileError):
                    read(path)


def test_any_flipped_bit(path: Path) -> None:
    whole = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(whole)):
            at, byte = bit // 8, whole[bit // 8]
            os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), at)
            with pytest.raises(BlockFileError):
                read(path)
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert read(path) == DATA.tobytes()


@pytest.mark.parametrize(
    "read_it",
    [
        lambda path: read(path, model=b"another model 16"),
        lambda path: read(path, digest=b"other tokens, 16"),
        lambda path: read(path, size=95),
        lambda path: read(path, size=97),
    ],
    ids=["model", "digest", "smaller", "larger"],
)
def test_another_block(path: Path, read_it: Callable[[Path], bytes]) -> None:
    with pytest.raises(BlockFileError):
        read_it(path)


def test_another_layout(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_serving.blockstore.block_file.MAGIC", b"LLMKVB99")
    with pytest.raises(BlockFileError):
        read(path)


def test_a_disk_that_takes_a_part_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.writev", lambda file, parts: 70)
    with pytest.raises(OSError, match="part"):
        write_block(tmp_path / "block", tmp_path / "partial", MODEL, DIGEST, DATA)
    assert list(tmp_path.iterdir()) == []
