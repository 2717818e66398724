"""`serve` under a real CPU quota or affinity: it answers, with as many threads as the budget grants."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from patience import PATIENCE_S

from tests.tiny_models import write_tiny_llama

CPU_GROUPS = Path("/sys/fs/cgroup/cpu")


@pytest.fixture
def enter_quota() -> Iterator[Callable[[float], str]]:
    """Makes Python that puts its process into a version 1 cgroup of so many CPUs; or skips."""
    group = CPU_GROUPS / f"llm-serving-test-{os.getpid()}"
    if not (CPU_GROUPS / "cpu.cfs_period_us").exists():
        pytest.skip("no version 1 cpu controller at /sys/fs/cgroup/cpu")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")

    def enter(cpus: float) -> str:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text(str(round(cpus * 100_000)))
        return f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"

    try:
        yield enter
    finally:
        group.rmdir()


def threads_of_an_answering_server(model: Path, *options: str, enter: str) -> int:
    """`enter` is Python that the process runs before the server, to limit itself."""
    program = f"import os, sys; {enter}; from llm_serving.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", str(model), "--port", "0", "--embedding-model", ""]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = ""
            for line in process.stderr:
                told += line
                if " is ready " in line:
                    break
            assert " is ready " in told, told
            address = re.search(r"http://127\.0\.0\.1:\d+", told)
            threads = re.search(r"(\d+) threads", told)
            assert address, told
            assert threads, told
            body = {"prompt": "a", "max_tokens": 3, "ignore_eos": True}
            answer = httpx.post(f"{address[0]}/v1/completions", json=body, timeout=PATIENCE_S)
            assert answer.json()["usage"]["completion_tokens"] == 3
            return int(threads[1])
        finally:
            process.kill()


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1.0, 1), (2.0, 2)])
def test_a_quota_serves_with_a_thread_for_each_whole_cpu(
    enter_quota: Callable[[float], str], tmp_path: Path, cpus: float, threads: int
) -> None:
    model = write_tiny_llama(tmp_path / "tiny")
    cores = len(os.sched_getaffinity(0))
    assert threads_of_an_answering_server(model, enter=enter_quota(cpus)) == min(threads, cores)


def test_half_a_cpu_serves_with_more_threads_where_asked(
    enter_quota: Callable[[float], str], tmp_path: Path
) -> None:
    model = write_tiny_llama(tmp_path / "tiny")
    assert threads_of_an_answering_server(model, "--threads", "2", enter=enter_quota(0.5)) == 2


def test_one_allowed_core_serves_with_one_thread(tmp_path: Path) -> None:
    enter = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    assert threads_of_an_answering_server(write_tiny_llama(tmp_path / "tiny"), enter=enter) == 1
