"""`serve` as a process: announces itself, answers, stops at Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from patience import PATIENCE_S

from tests.tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[2]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llm_serving.cli", "serve", "--port", "0", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_announce_answer_stop() -> None:
    with start("--engine", "fake", "--api-key", "sesame") as process:
        try:
            assert process.stderr is not None
            lines = [process.stderr.readline() for _ in range(5)]
            address = re.search(r"Address +(http://127\.0\.0\.1:\d+) ", "".join(lines))
            assert address is not None
            assert "Bearer YOUR_KEY" in "".join(lines)
            url, deadline = address[1], time.monotonic() + PATIENCE_S
            while process.stderr.readline().find(" is ready ") < 0:
                assert time.monotonic() < deadline
            assert httpx.get(f"{url}/ready").status_code == 200
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
            assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 401
            headers = {"Authorization": "Bearer sesame"}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).json()
            assert answer["usage"]["completion_tokens"] == 3
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130
    assert output == ""
    assert "Stopping: running requests have 30 s to finish. Ctrl-C again" in errors
    assert "Traceback" not in errors


def test_a_native_engine_leaves_without_a_word(tmp_path: Path) -> None:
    """An extension's objects that Python did not free are listed at its end, for the user to see."""
    with start(str(write_tiny_llama(tmp_path / "tiny")), "--embedding-model", "") as process:
        try:
            assert process.stderr is not None
            deadline = time.monotonic() + PATIENCE_S
            while process.stderr.readline().find(" is ready ") < 0:
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert errors.splitlines()[1:] == [""]
    assert errors.startswith("Stopping: ")


def test_a_model_that_cannot_be_loaded_ends_the_server_in_one_line(tmp_path: Path) -> None:
    """Also while another one is being loaded, whose thread is in the middle of native code."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(write_tiny_llama(tmp_path / "tiny").read_bytes()[:-1000])
    with start(str(cut)) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    _, _, told = errors.partition("Error: ")
    assert "cut.gguf" in told
    assert len(told.splitlines()) == 1


def test_a_model_that_cannot_be_loaded_again_does_not_end_the_server(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny")
    with start(str(path), "--embedding-model", "", "--api-key", "sesame") as process:
        try:
            assert process.stderr is not None
            lines = [process.stderr.readline() for _ in range(5)]
            address = re.search(r"Address +(http://127\.0\.0\.1:\d+) ", "".join(lines))
            assert address is not None
            deadline = time.monotonic() + PATIENCE_S
            while process.stderr.readline().find(" is ready ") < 0:
                assert time.monotonic() < deadline
            with httpx.Client(
                base_url=f"{address[1]}/admin/models/tiny",
                headers={"Authorization": "Bearer sesame"},
                timeout=PATIENCE_S,
            ) as client:
                assert client.post("/unload").json()["state"] == "unloaded"
                path.rename(tmp_path / "elsewhere")
                assert client.post("/load").status_code == 503
                (tmp_path / "elsewhere").rename(path)
                assert client.post("/load").json()["state"] == "loaded"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
