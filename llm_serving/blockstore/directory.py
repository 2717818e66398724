"""The directory of block files: found by name, bounded over all models, shared by all processes.

<directory>/<model>-<digest>.kv         whole; its time of change is its last use
<directory>/<random>-<number>.partial   being written; removed when it is old, as its writer was killed
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})\.kv")
_PARTIAL = re.compile(r"[0-9a-f]{8}-\d+\.partial")
ABANDONED_S = 600.0  # a partial file of this age has no writer


@dataclass(slots=True)
class Contents:
    """What a look into the directory found, and left there."""

    num_bytes: int = 0
    digests: set[bytes] = field(default_factory=set)  # of the model that was asked for


class BlockDirectory:
    """Files of blocks in `path`, up to `limit` bytes; those unused for longest go first.

    Who else writes here is seen at the next `trim` only. So it already frees room above seven eighths of the
    limit, down to three quarters, and is due (`trim_bytes`) long before that room is used up.
    """

    def __init__(self, path: Path, limit: int, model: bytes) -> None:
        self.path = path
        self.limit = limit
        self.trim_bytes = limit // 32
        self._model = model.hex()
        self._writer = secrets.token_hex(4)
        self._num_partials = 0

    def file(self, digest: bytes) -> Path:
        return self.path / f"{self._model}-{digest.hex()}.kv"

    def partial(self) -> Path:
        """A name that nobody has used."""
        self._num_partials += 1
        return self.path / f"{self._writer}-{self._num_partials}.partial"

    def create(self) -> None:
        """Blocks tell what was asked, so the directory is its owner's only. Raises: OSError."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def trim(self) -> Contents:
        """Remove what is too much, and what killed writers left; what is there now. Raises: OSError."""
        found = Contents()
        files = []
        for entry, stat in self._entries():
            if block := _BLOCK.fullmatch(entry.name):
                files.append((stat.st_mtime_ns, stat.st_size, entry.path, block))
            elif _PARTIAL.fullmatch(entry.name) and time.time() - stat.st_mtime > ABANDONED_S:
                Path(entry.path).unlink(missing_ok=True)
        found.num_bytes = sum(size for _, size, _, _ in files)
        if found.num_bytes > self.limit - self.limit // 8:
            files.sort(key=lambda file: -file[0])
            while files and found.num_bytes > self.limit - self.limit // 4:
                _, size, path, _ = files.pop()
                Path(path).unlink(missing_ok=True)
                found.num_bytes -= size
        for _, _, _, block in files:
            if block[1] == self._model:
                found.digests.add(bytes.fromhex(block[2]))
        return found

    def _entries(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    yield entry, entry.stat(follow_symlinks=False)
