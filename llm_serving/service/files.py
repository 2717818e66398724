"""Files that clients give, and that batches make: on disk, bounded, each there for one owner alone.

A file is its bytes under its id, and beside it what is known of it, as JSON. That is written first, then the
bytes get their name by one rename: one without the other was never complete, and goes at the next start.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from llm_serving.config import SettingsError, flag_name
from llm_serving.errors import FileNotKept, InvalidRequest

MAX_FILES = 10_000
MAX_FILE_BYTES = 200 << 20  # as OpenAI bounds what a batch reads
MAX_NAME = 255
KEPT_S = 30 * 24 * 3600  # where nobody says for how long, as OpenAI keeps files of batches

_FACTS = ".json"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file. Times are seconds since 1970."""

    id: str
    owner: str
    filename: str
    purpose: str
    num_bytes: int
    created_at: int
    expires_at: int


@dataclass(slots=True)
class Incoming:
    """A file on its way. What was only announced keeps no room from others."""

    path: Path  # where it is written
    num_bytes: int = 0  # that have come


class FileStore:
    """All files of one server. Event loop only; bytes may be written on any thread.

    `folder`: None is a temporary one, from the first file to the end of the server. `max_bytes` bounds all
    files together. `clock` tells seconds since 1970.
    """

    def __init__(self, folder: Path | None, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self.max_bytes = max_bytes
        self._given = folder
        self._clock = clock
        self._folder: Path | None = None
        self._lock: BinaryIO | None = None
        self._files: dict[str, StoredFile] = {}
        self._num_bytes = 0

    def open(self) -> None:
        """Look for what is there of a former life. Raises: SettingsError (no such folder, or another's)."""
        if self._given is None:
            return
        try:
            self._given.mkdir(mode=0o700, parents=True, exist_ok=True)
            with ExitStack() as stack:
                lock = stack.enter_context((self._given / "lock").open("wb"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._folder = self._given
                self._find()
                self._lock = lock
                stack.pop_all()
        except BlockingIOError:
            raise SettingsError(f"{self._where()} is another server's; give each its own.") from None
        except OSError as error:
            raise SettingsError(f"{self._where()} cannot be used: {error.strerror}.") from None

    def close(self) -> None:
        """Files of a temporary folder are gone then."""
        if self._lock is not None:
            self._lock.close()
        if self._given is None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    @property
    def folder(self) -> Path:
        """Where they lie, and where their users may keep files of their own. Made when it is asked for."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="llm-serving-files-"))
        return self._folder

    @contextmanager
    def incoming(self, expected: int = 1) -> Iterator[Incoming]:
        """For a file that comes, to be adopted before this ends. Raises: InvalidRequest: `expected` bytes are
        more than there is room for now.
        """
        self.require_room(expected)
        incoming = Incoming(self.folder / f"{new_file_id()}.part")
        try:
            yield incoming
        finally:
            self._num_bytes -= incoming.num_bytes
            incoming.path.unlink(missing_ok=True)

    def take(self, incoming: Incoming, num_bytes: int) -> None:
        """So much has come, and counts from now on. Raises: InvalidRequest, if there is no room for it."""
        self.require_room(num_bytes)
        incoming.num_bytes += num_bytes
        self._num_bytes += num_bytes

    def adopt(
        self, path: Path, file_id: str, owner: str, filename: str, purpose: str, kept_s: int = KEPT_S
    ) -> StoredFile:
        """Take over a file that lies in `folder`. It is kept also where there is no room for another."""
        now = int(self._clock())
        file = StoredFile(file_id, owner, filename, purpose, path.stat().st_size, now, now + kept_s)
        replace_bytes(self.folder / (file_id + _FACTS), orjson.dumps(asdict(file)))
        path.rename(self.folder / file_id)
        self._files[file_id] = file
        self._num_bytes += file.num_bytes
        return file

    def require_room(self, num_bytes: int = 1) -> None:
        """Raises: InvalidRequest, if there is none for so much more."""
        self.forget_expired()
        if self._num_bytes + num_bytes > self.max_bytes or len(self._files) >= MAX_FILES:
            raise InvalidRequest(
                f"There is no room for this file. Delete others, or raise {flag_name('files_bytes')}.", "file"
            )

    def has(self, file_id: str) -> bool:
        return file_id in self._files

    def get(self, owner: str, file_id: str) -> StoredFile:
        """Raises: FileNotKept."""
        self.forget_expired()
        file = self._files.get(file_id)
        if file is None or file.owner != owner:
            raise FileNotKept(file_id)
        return file

    def path(self, file: StoredFile) -> Path:
        return self.folder / file.id

    def all_of(self, owner: str) -> list[StoredFile]:
        """The latest last."""
        self.forget_expired()
        return [file for file in self._files.values() if file.owner == owner]

    def remove(self, file: StoredFile) -> None:
        """Whoever has it open reads it to its end."""
        if self._files.pop(file.id, None) is not None:
            self._num_bytes -= file.num_bytes
            for name in (file.id + _FACTS, file.id):
                (self.folder / name).unlink(missing_ok=True)

    def forget_expired(self) -> None:
        """Remove what was to be kept until now."""
        now = self._clock()
        for file in [file for file in self._files.values() if file.expires_at <= now]:
            self.remove(file)

    def _find(self) -> None:
        found = []
        for path in self.folder.glob(f"file-*{_FACTS}"):
            with suppress(OSError, ValueError, TypeError):
                file = StoredFile(**orjson.loads(path.read_bytes()))
                if file.id + _FACTS == path.name and (self.folder / file.id).is_file():
                    found.append(file)
        self._files = {file.id: file for file in sorted(found, key=lambda file: file.created_at)}
        self._num_bytes = sum(file.num_bytes for file in found)
        for path in self.folder.glob("file-*"):
            if path.name.removesuffix(_FACTS) not in self._files:
                path.unlink(missing_ok=True)
        self.forget_expired()

    def _where(self) -> str:
        return f"{flag_name('files_dir')}: the folder {self._given}"


def new_file_id() -> str:
    return f"file-{os.urandom(16).hex()}"


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, whenever this process is killed."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
