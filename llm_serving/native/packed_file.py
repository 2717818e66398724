"""One file of packed panels: what a core plan made of a model's matrices, ready to be mapped.

    0       magic, place and length of the index, SHA-256 of the index; zeros up to byte 4096
    4096    panels of one matrix after another, each on a 4 KiB page
    index   JSON to the end of the file: what was packed, and for each matrix its place and checksum

The header is written last, so that a file without it is known to be unfinished.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAGIC = b"LLMPACK1"
PAGE = 4096
MAX_INDEX_BYTES = 1 << 24
_HEADER = struct.Struct("<8sQQ32s")
_PIECE = 8 << 20
_HUGE_SHARE = 0.75  # of a mapping in huge pages, from which on it is as fast as memory of our own
_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14


class PackedFileError(ValueError):
    """The file is unfinished, damaged, or was written by something else."""


@dataclass(frozen=True, slots=True)
class PackedEntry:
    """One matrix: its format and shape, its place in the file, the core's checksum of its bytes."""

    format: str
    rows: int
    cols: int
    offset: int
    size: int
    checksum: int


class PackedWriter:
    """Writes a file in order, in aligned pieces, which some kernels keep in huge pages. Raises: OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._piece = bytearray(_PIECE)
        self._filled = 0
        self._entries: dict[str, PackedEntry] = {}
        self.size = 0
        self._append(memoryview(bytes(PAGE)))

    def add(self, key: str, form: str, shape: tuple[int, int], panels: np.ndarray, checksum: int) -> None:
        """Append one matrix; `panels` is uint8 [bytes]."""
        self._entries[key] = PackedEntry(form, *shape, self.size, panels.nbytes, checksum)
        self._append(panels.data)
        self._append(memoryview(bytes(-panels.nbytes % PAGE)))

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write index and header and wait until everything is on the disk."""
        entries = {key: asdict(entry) for key, entry in self._entries.items()}
        index = json.dumps({**facts, "matrices": entries}).encode()
        self._file.write(self._piece[: self._filled])
        self._file.write(index)
        self._file.seek(0)
        self._file.write(_HEADER.pack(MAGIC, self.size, len(index), hashlib.sha256(index).digest()))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _append(self, data: memoryview) -> None:
        self.size += data.nbytes
        while data.nbytes:
            taken = data[: _PIECE - self._filled]
            self._piece[self._filled : self._filled + taken.nbytes] = taken
            self._filled += taken.nbytes
            data = data[taken.nbytes :]
            if self._filled == _PIECE:
                self._file.write(self._piece)
                self._filled = 0


class PackedFile:
    """An open file: `facts` as they were given to `finish`, `entries` by key.

    Raises: PackedFileError; OSError when it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.facts, self.entries = _read_index(file)
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._mapped, np.uint8)

    def panels(self, entry: PackedEntry) -> np.ndarray:
        """uint8 [size], a read-only view of the mapped file, which stays mapped while any of them lives."""
        view: np.ndarray = self._bytes[entry.offset : entry.offset + entry.size]
        return view

    def is_fast_to_map(self) -> bool:
        """Whether the kernel maps this file in huge pages, or has none for anybody. Reads all of the file.

        Without, decoding one sequence from a mapping is about a tenth slower than from memory of our own.
        """
        try:
            if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
                return True
            self._mapped.madvise(_POPULATE_READ)
            address = self._bytes.__array_interface__["data"][0]
            return _huge_bytes(address) >= _HUGE_SHARE * self._bytes.nbytes
        except (OSError, ValueError, AttributeError):  # another kernel, or none that tells
            return False


def _read_index(file: BinaryIO) -> tuple[dict[str, Any], dict[str, PackedEntry]]:
    size = os.fstat(file.fileno()).st_size
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        raise PackedFileError("it is no finished file of packed weights")
    _, begin, length, digest = _HEADER.unpack(header)
    if length > MAX_INDEX_BYTES or begin + length != size:
        raise PackedFileError(f"it has {size} bytes where {begin + length} are due")
    file.seek(begin)
    index = file.read(length)
    if hashlib.sha256(index).digest() != digest:
        raise PackedFileError("its index is damaged")
    try:
        facts = json.loads(index)
        entries = {key: PackedEntry(**entry) for key, entry in facts.pop("matrices").items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise PackedFileError("its index is of another kind") from None
    for entry in entries.values():
        numbers = (entry.rows, entry.cols, entry.offset, entry.size, entry.checksum)
        if not all(type(number) is int for number in numbers) or not (
            PAGE <= entry.offset <= entry.offset + entry.size <= begin and entry.offset % PAGE == 0
        ):
            raise PackedFileError("its index names places outside of the file")
    return facts, entries


def _huge_bytes(address: int) -> int:
    """Bytes that the mapping at this address has in huge pages, as /proc/self/smaps tells."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in line[:20] and not rest.endswith("kB"):
            inside = line.startswith(f"{address:x}-") or line.startswith(f"{address:08x}-")
        elif inside and name == "FilePmdMapped":
            return int(rest.split()[0]) * 1024
    return 0
