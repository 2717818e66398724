"""Where fetched models live, and how a file gets there whole or not at all.

<root>/models/<name>/<file>.gguf     appears by one rename, after its hash was checked
<root>/models/<name>/verified.json   what was checked: hash, size, time of change
<root>/staging/<name>/…              a fetch in progress; removed by the next one if it was killed
<root>/locks/<name>                  flock: one fetch of a model at a time, over all processes
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llm_serving.errors import DownloadError
from llm_serving.models.spec import InstalledModel, ModelSpec

_MARKER = "verified.json"
_CHUNK = 1 << 20
_LOCK_POLL_S = 0.1


def default_root() -> Path:
    """`$LLM_SERVING_CACHE`, else `~/.cache/llm-serving`; read at every call."""
    chosen = os.environ.get("LLM_SERVING_CACHE", "").strip()
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "llm-serving"


class ModelCache:
    """The cache below `root`. Reading takes no lock and needs no write access; safe from any thread."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()

    def path(self, spec: ModelSpec) -> Path:
        """Where the model's file is or would be."""
        return self.root / "models" / spec.name / spec.filename

    def find(self, spec: ModelSpec) -> Path | None:
        """The model's file if it is there and verified; hashed only if the marker does not vouch for it."""
        path = self.path(spec)
        try:
            stat = path.stat()
        except OSError:
            return None
        if stat.st_size != spec.size:
            return None
        expected = {"sha256": spec.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        marker = path.with_name(_MARKER)
        if _read_marker(marker) == expected:
            return path
        if hash_file(path) != spec.sha256:
            return None
        with contextlib.suppress(OSError):  # a read-only cache is hashed each time, and works
            _replace_text(marker, json.dumps(expected))
        return path

    def installed(self, catalog: Sequence[ModelSpec]) -> list[InstalledModel]:
        """Which of the catalogue's models are here."""
        found = ((spec, self.find(spec)) for spec in catalog)
        return [InstalledModel(spec, path) for spec, path in found if path is not None]

    @contextlib.contextmanager
    def locked(self, spec: ModelSpec, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the model's lock; `on_wait` is called once if somebody else has it."""
        with _lock_file(self.root / "locks" / spec.name) as descriptor:
            waiting = False
            while not _try_lock(descriptor):
                if not waiting:
                    waiting = True
                    on_wait()
                time.sleep(_LOCK_POLL_S)
            yield

    @contextlib.contextmanager
    def staging(self, spec: ModelSpec) -> Iterator[Path]:
        """An empty directory on the cache's own disk, removed at the end. Only under the model's lock."""
        directory = self.root / "staging" / spec.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def install(self, spec: ModelSpec, staged: Path) -> Path:
        """Move a verified, synced file into its place in one step."""
        path = self.path(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(_MARKER).unlink(missing_ok=True)
        os.replace(staged, path)
        stat = path.stat()
        marker = {"sha256": spec.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        _replace_text(path.with_name(_MARKER), json.dumps(marker))
        _sync_directory(path.parent)
        return path

    def clean(self) -> None:
        """Remove what killed fetches left behind; fetches that are running keep theirs."""
        with contextlib.suppress(OSError):
            for directory in sorted((self.root / "staging").iterdir()):
                with _lock_file(self.root / "locks" / directory.name) as descriptor:
                    if _try_lock(descriptor):
                        shutil.rmtree(directory, ignore_errors=True)

    def remove(self, spec: ModelSpec) -> int:
        """Delete the model's directory; bytes freed, 0 if there was nothing.

        A process that has the file mapped keeps it until it ends.
        """
        directory = self.path(spec).parent
        if not directory.is_dir():
            return 0
        with self.locked(spec, lambda: None):
            num_bytes = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
            shutil.rmtree(directory)
        return num_bytes

    def require_space(self, num_bytes: int) -> None:
        """Raise DownloadError if the cache's disk has less free, or cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise cannot_write(self.root, error) from error
        if free < num_bytes:
            raise DownloadError(
                f"The disk of {self.root} has {free / 1e6:.0f} MB free, and "
                f"{num_bytes / 1e6:.0f} MB are needed. "
                "Make room, or set LLM_SERVING_CACHE to a directory on another disk."
            )


def hash_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cannot_write(root: Path, error: OSError) -> DownloadError:
    """The cache's disk refused; say where and what to do."""
    reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
    return DownloadError(
        f"The model cache {root} cannot be written: {reason}. "
        "Set LLM_SERVING_CACHE to a directory you can write to."
    )


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    """Lock files stay for ever: removing one would let two processes lock two different files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_marker(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
