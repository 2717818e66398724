"""One block in one file: a header of 64 bytes, then the block as its runner gave it.

    0    magic and version of this layout
    8    which model, and whose arithmetic, computed it (16 bytes)
    24   which tokens, and all before them (16 bytes)
    40   bytes of the block, CRC-32 of everything else here and of the block; zeros up to byte 64

A file appears by one rename, so a process that is killed leaves none that is cut short. There is no fsync:
a machine that loses its power may leave such a one, and then its size or its sum is wrong.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np

MAGIC = b"LLMKVB01"
HEADER_BYTES = 64
NAME_BYTES = 16  # of a model's name and of a block's
_FACTS = struct.Struct("<8s16s16sQ")
_SUM = struct.Struct("<Q")


class BlockFileError(ValueError):
    """The file is damaged, or holds another block."""


def write_block(path: Path, partial: Path, model: bytes, digest: bytes, data: np.ndarray) -> None:
    """Have `data`, uint8 [bytes], at `path` in one moment; until then it is at `partial`. Raises: OSError."""
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            header = _header(model, digest, data)
            if os.writev(file, [header, data.data]) != len(header) + data.nbytes:
                raise OSError("the disk took only a part of a block")
        finally:
            os.close(file)
        os.rename(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def read_block(path: Path, model: bytes, digest: bytes, out: np.ndarray) -> None:
    """Fill `out`, uint8 [bytes], which then is the block unless this raises.

    Raises: BlockFileError; OSError, FileNotFoundError among them.
    """
    header = bytearray(HEADER_BYTES)
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        count = os.readv(file, [header, out.data])
    finally:
        os.close(file)
    if not size == count == HEADER_BYTES + out.nbytes:
        raise BlockFileError(f"it has {size} bytes where {HEADER_BYTES + out.nbytes} are due")
    if header != _header(model, digest, out):
        raise BlockFileError("it is damaged, or another block")


def _header(model: bytes, digest: bytes, data: np.ndarray) -> bytes:
    facts = _FACTS.pack(MAGIC, model, digest, data.nbytes)
    checksum = zlib.crc32(data.data, zlib.crc32(facts))
    return (facts + _SUM.pack(checksum)).ljust(HEADER_BYTES, b"\0")
