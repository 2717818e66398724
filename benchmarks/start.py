"""How long from starting the server to the first token, with the packed weights on disk and without?

    .venv/bin/python benchmarks/start.py [smollm2-135m-instruct | /path/to/model.gguf] [--repeats 5]

Starts `llm-serving serve` with the default embedding model: first without packed weights, then with those
that the first start left, files in the page cache. Times from the process's start: listening (the first
answer of any kind), ready (/ready says so), first token (of a streamed chat answer asked right then).
Then memory: all of it, what is the process's own, and what are pages of files. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from llm_serving.models import packed_directory

QUESTION = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1, "stream": True}
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds since the process was started; MiB."""

    listening: float
    ready: float
    first_token: float
    rss: int
    anonymous: int
    of_files: int


def measure(model: str, cache: Path) -> Start:
    """One start and one token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "llm_serving.cli", "serve", model, "--port", str(port)]
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--cache-dir", str(cache)], stdout=log, stderr=log)
        try:
            listening = wait_for(f"{url}/health", process, begin)
            ready = wait_for(f"{url}/ready", process, begin)
            first_token = ask(url) - begin
            return Start(listening, ready, first_token, *memory_of(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes], begin: float) -> float:
    """Seconds until this address answers with 200."""
    while time.perf_counter() - begin < PATIENCE_S:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=5):
            return time.perf_counter() - begin
        time.sleep(0.005)
    raise SystemExit(f"{url} did not answer within {PATIENCE_S:g} s")


def ask(url: str) -> float:
    """The time at which the first piece of an answer came."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(QUESTION).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        for line in answer:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["finish_reason"] is None:
                delta = json.loads(line[6:])["choices"][0]["delta"]
                if delta.get("content"):
                    return time.perf_counter()
    return time.perf_counter()  # the token added no text


def memory_of(pid: int) -> tuple[int, int, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    kib = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", status, re.M)}
    return tuple(kib[key] // 1024 for key in ("VmRSS", "RssAnon", "RssFile"))  # type: ignore[return-value]


def row(name: str, starts: list[Start]) -> str:
    def seconds(field: str) -> str:
        values = [getattr(start, field) for start in starts]
        return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

    times = [seconds(field) for field in ("listening", "ready", "first_token")]
    last = starts[-1]
    return f"| {' | '.join([name, *times, *map(str, (last.rss, last.anonymous, last.of_files))])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=packed_directory().parent) as directory:
        cache = Path(directory)
        # A cache of its own with the same models: nobody's packed weights are touched.
        for part in packed_directory().parent.glob("models"):
            shutil.copytree(part, cache / part.name, copy_function=os.symlink)
        first, later = [], []
        for _ in range(arguments.repeats):
            shutil.rmtree(packed_directory(cache), ignore_errors=True)
            first.append(measure(arguments.model, cache))
            later.append(measure(arguments.model, cache))
    print("| start | listening s | ready s | first token s | RSS MiB | own MiB | files MiB |")
    print("|---|---|---|---|---|---|---|")
    print(row("nothing packed", first))
    print(row("packed weights on disk", later))


if __name__ == "__main__":
    main()
