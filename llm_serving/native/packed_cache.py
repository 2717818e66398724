"""The directory of packed files: found by what they were made from, bounded, shared by all processes.

<directory>/<digest>.packed         appears by one rename, whole; its time of change is its last use
<directory>/<digest>.<pid>.partial  being written, under a flock; if that was killed, the next one removes it
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llm_serving.native.packed_file import PackedFile, PackedFileError, PackedWriter

logger = logging.getLogger(__name__)

_ENDING, _PARTIAL = ".packed", ".partial"


@dataclass(frozen=True, slots=True)
class PackedModel:
    """A file of the directory, for people: the model's path and the weights' format as they were packed."""

    path: Path
    model: Path
    weight_format: str
    size: int
    used: float  # seconds since 1970


class PackedCache:
    """Packed files in `directory`, up to `limit` bytes, 0 to write none; those unused for longest go first.

    Nothing here raises for a disk that is full, slow or read-only: a line in the log, and packing as before.
    """

    def __init__(self, directory: Path, limit: int = 0) -> None:
        self.directory = directory
        self.limit = limit

    def open(self, digest: str) -> PackedFile | None:
        """The file, if it is there and in order as far as its header tells."""
        path = self._path(digest)
        try:
            file = PackedFile(path)
        except FileNotFoundError:
            return None
        except (OSError, PackedFileError) as error:
            self.reject(digest, str(error))
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return file

    def reject(self, digest: str, reason: str) -> None:
        """Remove a file that is not what it should be; whoever has it mapped keeps it."""
        logger.warning("packed weights %s are packed anew: %s", self._path(digest), reason)
        with contextlib.suppress(OSError):
            self._path(digest).unlink()

    def write(self, digest: str, model: str, weight_format: str) -> PendingFile | None:
        """A file to write to, or None where that is not possible."""
        if not self.limit:
            return None
        path = self.directory / f"{digest}.{os.getpid()}{_PARTIAL}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clean()
            file = path.open("xb")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("packed weights are not kept: %s", error)
            return None
        return PendingFile(
            self, path, self._path(digest), file, {"model": os.path.abspath(model), "format": weight_format}
        )

    def models(self) -> list[PackedModel]:
        """What is there, last used first; a damaged file has "?" for a model."""
        found = []
        for path in self._files(_ENDING):
            with contextlib.suppress(OSError):
                stat = path.stat()
                try:
                    facts = PackedFile(path).facts
                except PackedFileError:
                    facts = {}
                model, form = Path(str(facts.get("model", "?"))), str(facts.get("format", "?"))
                found.append(PackedModel(path, model, form, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda model: -model.used)

    def trim(self, keep: Path) -> None:
        """Remove what was not used for longest until the rest fits the limit; never `keep`."""
        left = self.limit
        stats = [(path, path.stat()) for path in self._files(_ENDING)]
        for path, stat in sorted(stats, key=lambda item: (item[0] != keep, -item[1].st_mtime)):
            left -= stat.st_size
            if left < 0 and path != keep:
                logger.info("packed weights %s go, to keep within %d MB", path, self.limit // 10**6)
                path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self.directory / f"{digest}{_ENDING}"

    def _files(self, ending: str) -> Iterator[Path]:
        yield from self.directory.glob(f"*{ending}")

    def _clean(self) -> None:
        """Remove what killed writers left; the lock of one that runs is held."""
        for path in self._files(_PARTIAL):
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


class PendingFile:
    """A file being written. After an error of the disk, nothing more is."""

    def __init__(
        self, cache: PackedCache, partial: Path, path: Path, file: BinaryIO, facts: Mapping[str, Any]
    ) -> None:
        self._cache = cache
        self._partial = partial
        self._path = path
        self._file = file
        self._facts = facts
        self._writer = PackedWriter(file)
        self._given_up = False

    def add(self, key: str, form: str, shape: tuple[int, int], panels: Any, checksum: int) -> None:
        """As `PackedWriter.add`; raises nothing."""
        if self._given_up:
            return
        try:
            self._writer.add(key, form, shape, panels, checksum)
            if self._writer.size > self._cache.limit:
                raise OSError(f"they are larger than the {self._cache.limit // 10**6} MB that may be kept")
        except OSError as error:
            self._give_up(error)

    def publish(self) -> None:
        """Sync and rename on a thread of its own, which the end of the program waits for."""
        if not self._given_up:
            threading.Thread(target=self._publish, name="publish-packed").start()

    def discard(self) -> None:
        """Remove what was written."""
        self._given_up = True
        with contextlib.suppress(OSError):
            self._partial.unlink()
        with contextlib.suppress(OSError):
            self._file.close()

    def _publish(self) -> None:
        try:
            self._writer.finish(self._facts)
            os.rename(self._partial, self._path)
            self._file.close()
            self._cache.trim(keep=self._path)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.warning("packed weights are not kept in %s: %s", self._cache.directory, error)
        self.discard()
