"""Where fetched models live, and how a model gets there whole or not at all.

<root>/models/<name>/                appears by one rename, after the hashes of its files were checked
<root>/models/<name>/verified.json   what was checked: hash, size and time of change of each file
<root>/staging/<name>/…              a fetch in progress; removed by the next one if it was killed
<root>/locks/<name>                  flock: one fetch of a model at a time, over all processes
<root>/packed/                       weights as the native engine packed them; see native/packed_cache.py
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
from llm_serving.models.spec import InstalledModel, ModelFile, ModelSpec

_MARKER = "verified.json"
_CHUNK = 1 << 20
_LOCK_POLL_S = 0.1


def default_root() -> Path:
    """`$LLM_SERVING_CACHE`, else `~/.cache/llm-serving`; read at every call."""
    chosen = os.environ.get("LLM_SERVING_CACHE", "").strip()
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "llm-serving"


def packed_directory(root: Path | None = None) -> Path:
    """Where packed weights are kept, beside the models."""
    return (root or default_root()).absolute() / "packed"


class ModelCache:
    """The cache below `root`. Reading takes no lock and needs no write access; safe from any thread."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()

    def path(self, spec: ModelSpec) -> Path:
        """Where the model is or would be: its only file, or its directory."""
        directory = self.directory(spec)
        return directory / spec.files[0].path if len(spec.files) == 1 else directory

    def directory(self, spec: ModelSpec) -> Path:
        """The directory of the model's files."""
        return self.root / "models" / spec.name

    def find(self, spec: ModelSpec) -> Path | None:
        """The model's path if all of it is there and verified; hashed where the marker does not vouch."""
        directory = self.directory(spec)
        vouched = _read_marker(directory / _MARKER)
        found = {}
        try:
            for file in spec.files:
                facts = _facts(directory, file)
                if facts["size"] != file.size:
                    return None
                found[file.path] = facts
            for file in spec.files:
                wrong = vouched.get(file.path) != found[file.path]
                if wrong and hash_file(directory / file.path) != file.sha256:
                    return None
        except OSError:
            return None
        if vouched != found:
            with contextlib.suppress(OSError):  # a read-only cache is hashed each time, and works
                _replace_text(directory / _MARKER, json.dumps(found))
        return self.path(spec)

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
        """Move a directory of verified, synced files from staging into its place in one step.

        What was there before, incomplete or damaged, goes the other way, and with the staging directory.
        """
        marker = {file.path: _facts(staged, file) for file in spec.files}
        _replace_text(staged / _MARKER, json.dumps(marker))
        for folder in {staged, *((staged / file.path).parent for file in spec.files)}:
            _sync_directory(folder)
        directory = self.directory(spec)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.rename(directory, staged.with_name("replaced"))
        os.rename(staged, directory)
        _sync_directory(directory.parent)
        return self.path(spec)

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
        directory = self.directory(spec)
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


def _facts(directory: Path, file: ModelFile) -> dict[str, object]:
    """What makes a file the one that was hashed."""
    stat = (directory / file.path).stat()
    return {"sha256": file.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _read_marker(path: Path) -> dict[str, object]:
    try:
        marker = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return marker if isinstance(marker, dict) else {}


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
