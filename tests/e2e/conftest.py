"""The real thing: `uvicorn main:app` from the repository's root, with the real model, as its own process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest
from patience import PATIENCE_S
from real_model import real_model_path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside a failure: the log of the server and where its threads are. It may have stopped answering."""
    report = yield
    server: RealServer | None = item.funcargs.get("real_server")
    if server is not None and report.failed and report.when == "call":
        report.sections.append(("the server", server.last_words()))
    return report


class RealServer(str):
    """Base URL of a live server."""

    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self) -> str:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(1)
        threads = Path(f"/proc/{self.process.pid}/task").glob("*")
        states = [(path / "stat").read_text().rpartition(")")[2].split() for path in threads]
        ticks = ", ".join(f"{state[0]} {state[11]}+{state[12]}" for state in states)
        return f"{self.log.read_text()[-20_000:]}\nthreads, with ticks of user and system: {ticks}"


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """Base URL of a server started the way a checkout is: the folder here shadows the installed package."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port), "--log-level", "warning"]
    # Who names no limit waits for an answer, not for a thousand tokens.
    settings = {"MODEL_NAME": str(real_model_path()), "DRAIN_S": "2", "MAX_NEW_TOKENS": "128"}
    environment = {**os.environ, **{f"LLM_SERVING_{name}": value for name, value in settings.items()}}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
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
        server = RealServer(url)
        server.process, server.log = process, log
        yield server
        process.send_signal(signal.SIGTERM)
        # uvicorn drains, then ends by the signal it was sent.
        assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM), log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
