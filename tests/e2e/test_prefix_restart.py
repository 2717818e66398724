"""A server that is killed while it keeps prompts on disk, and the one that comes after it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from patience import PATIENCE_S, wait_until
from tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[2]
SYSTEM = "You answer in the words of the world and of the one that is in it. " * 12


@contextlib.contextmanager
def server(model: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A process and a client of it; what the process logs goes to a file beside the model."""
    command = [sys.executable, "-m", "llm_serving.cli", "serve", str(model), "--port", "0"]
    command += ["--embedding-model", "", "--threads", "1", "--packed-cache", "0", "--drain-s", "0", *more]
    log = model.parent / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, text=True)
    try:
        wait_until(lambda: " is ready " in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        address = re.search(r"Address +(\S+)", log.read_text())
        assert address is not None
        with httpx.Client(base_url=address[1], timeout=PATIENCE_S) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def ask(client: httpx.Client, question: str) -> tuple[str, int]:
    """(text, cached tokens)."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    body: dict[str, Any] = {"messages": messages, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    cached: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["message"]["content"], cached


def metric(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^llm_serving_{name}(?:{{.*}})? (\S+)", client.get("/metrics").text, re.M)
    assert found is not None, name
    return float(found[1])


def keep_asking(client: httpx.Client) -> None:
    with contextlib.suppress(httpx.HTTPError):
        for number in range(10_000):
            ask(client, f"{number} " * 40)


def test_killed_while_writing_then_found_again(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", context=4096)
    with server(model) as (_, client):
        expected, _ = ask(client, "Hello world")
    directory = tmp_path / "kv"
    options = ("--prefix-cache-dir", str(directory), "--prefix-cache-disk", "64M")
    for turn in range(2):
        with server(model, *options) as (process, client):
            text, cached = ask(client, "Hello world")
            assert text == expected
            assert (cached > 300) == (turn > 0)
            thread = threading.Thread(target=keep_asking, args=(client,))
            thread.start()
            wait_until(lambda: metric(client, "kv_blocks_written_total") >= 40)
            process.send_signal(signal.SIGKILL)
            thread.join()
    with server(model, *options) as (process, client):
        assert ask(client, "Hello world") == (expected, cached)
        assert metric(client, "kv_blocks_read_total") == cached / 16
        sizes = sum(path.stat().st_size for path in directory.iterdir())
        wait_until(lambda: metric(client, "kv_disk_bytes") >= sizes * 0.9)
        assert "Traceback" not in (tmp_path / "log").read_text()
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def test_what_waits_is_written_when_the_server_ends(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", context=4096)
    options = ("--prefix-cache-dir", str(tmp_path / "kv"))
    with server(model, *options) as (process, client):
        expected, cached = ask(client, "Hello world")
        assert cached == 0
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    with server(model, *options) as (_, client):
        text, cached = ask(client, "Hello world")
    assert text == expected
    assert cached > 300


def test_a_directory_that_cannot_be_is_a_line_in_the_log(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", context=4096)
    (tmp_path / "file").write_text("")
    with server(model, "--prefix-cache-dir", str(tmp_path / "file" / "kv")) as (_, client):
        first = ask(client, "Hello world")
        assert ask(client, "Hello world")[0] == first[0]
        assert (tmp_path / "log").read_text().count("no more blocks are kept") == 1
