"""The real thing: `uvicorn main:app` from the repository's root, with the real model, as its own process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from real_model import real_model_path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a server started the way a checkout is: the folder here shadows the installed package."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port), "--log-level", "warning"]
    environment = {**os.environ, "LLM_SERVING_MODEL_NAME": str(real_model_path()), "LLM_SERVING_DRAIN_S": "2"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        else:
            raise AssertionError(f"not ready within a minute: {log.read_text()}")
        yield url
        process.send_signal(signal.SIGTERM)
        # uvicorn drains, then ends by the signal it was sent.
        assert process.wait(20) in (0, -signal.SIGTERM), log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
