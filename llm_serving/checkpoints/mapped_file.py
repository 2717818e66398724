"""Files as memory that the kernel fills: nothing is read before it is used."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_serving.errors import CheckpointError

_SAMPLES, _SAMPLE_BYTES = 16, 4096
_WHOLE_BYTES = 1 << 20  # files up to this size are hashed whole


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What changes when a file does. `ctime_ns` changes with every write and cannot be set back."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def map_file(path: str | Path) -> mmap.mmap:
    """Map a whole file, read-only. Raises: CheckpointError if it is missing, empty or unreadable."""
    try:
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: there is no such file.")
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise CheckpointError(f"{path}: the file is empty.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}.") from error


def stamp_files(paths: Sequence[str | Path]) -> tuple[FileStamp, ...]:
    """Stamps of these files, to be taken before they are mapped; none at all if one cannot be read."""
    try:
        return tuple(_stamp(path) for path in paths)
    except OSError:
        return ()


def content_digest(stamps: Sequence[FileStamp]) -> str | None:
    """Names the content of files that are as they were when stamped; None if one is not, or there are none.

    Hashes the stamps, less the paths, and samples of the bytes: whole files would take seconds to read.
    """
    digest = hashlib.sha256()
    try:
        for stamp in stamps:
            digest.update(repr((stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode)).encode())
            with open(stamp.path, "rb") as file:
                for begin, size in _samples(stamp.size):
                    digest.update(os.pread(file.fileno(), size, begin))
            if _stamp(stamp.path) != stamp:
                return None
    except OSError:
        return None
    return digest.hexdigest() if stamps else None


def release(view: np.ndarray) -> None:
    """Take the pages of a view of a mapped file out of this process; they come back when they are used.

    Does nothing for other arrays.
    """
    whole: Any = view
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    owner = whole.base.obj if isinstance(whole.base, memoryview) else whole.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        begin = view.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        first = begin // mmap.PAGESIZE * mmap.PAGESIZE
        span = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
        owner.madvise(mmap.MADV_DONTNEED, first, begin + span + view.itemsize - first)


def _stamp(path: str | Path) -> FileStamp:
    stat = os.stat(path)
    return FileStamp(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def _samples(size: int) -> list[tuple[int, int]]:
    if size <= _WHOLE_BYTES:
        return [(0, size)]
    last = size - _SAMPLE_BYTES
    return [(last * i // (_SAMPLES - 1), _SAMPLE_BYTES) for i in range(_SAMPLES)]
