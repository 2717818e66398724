"""Workers that meet on one core part, and afterwards may run where they could before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import wait_until

from llm_serving.native.core import load_core

core = load_core()
TASKS = Path("/proc/self/task")
TOKENS = 64
pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="only Linux tells threads' cores"
)


@pytest.fixture
def allowed() -> Iterator[set[int]]:
    """Two cores, which are all that this thread and those it starts may use; put back at the end."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    two = set(sorted(before)[:2])
    os.sched_setaffinity(0, two)
    yield two
    os.sched_setaffinity(0, before)


@pytest.fixture
def neighbour(allowed: set[int]) -> Iterator[int]:
    """A core that another process keeps busy: the kernel moves nobody there who has half a core elsewhere."""
    core = max(allowed)
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.sched_setaffinity(process.pid, {core})
    yield core
    process.kill()
    process.wait()


class Steps:
    """A plan of a few matrix products on two threads, with a core mask of its own for each."""

    def __init__(self) -> None:
        before = self._threads()
        self._plan: Any = core.Plan(2, "auto", TOKENS, 16)
        [self.worker] = self._threads() - before
        table = np.ones((16, 256), np.float32)
        packed = self._plan.pack("F32", table.view(np.uint8).reshape(-1), 16, 256, "q8", None)
        square = np.ones((256, 256), np.float32)
        self._buffer = self._plan.buffer(256)
        self._plan.embed(packed, self._buffer)
        matrix = self._plan.pack("F32", square.view(np.uint8).reshape(-1), 256, 256, "q8", None)
        self._plan.quantize(self._buffer)
        for _ in range(50):
            self._plan.linear([(matrix, -1, self._buffer, 0)])

    def run(self) -> np.ndarray:
        ids = np.arange(TOKENS, dtype=np.int32) % 16
        starts, tables = np.array([0, TOKENS], np.int32), np.zeros((1, 0), np.int32)
        out: np.ndarray = self._plan.run(ids, ids, starts, tables, np.zeros(0, np.int32), self._buffer)
        return out.copy()

    def core_of_worker(self) -> int:
        """Where it ran last. It may be late, so this waits until it sleeps."""
        wait_until(lambda: self._stat()[0] == "S")
        return int(self._stat()[36])

    def _stat(self) -> list[str]:
        return (TASKS / str(self.worker) / "stat").read_text().rpartition(")")[2].split()

    @staticmethod
    def _threads() -> set[int]:
        return {int(task.name) for task in TASKS.iterdir()}


def test_a_worker_leaves_the_core_of_another_one(allowed: set[int], neighbour: int) -> None:
    """Again and again: without it, workers are left together about every second time."""
    taken = min(allowed)
    for _ in range(12):
        os.sched_setaffinity(0, allowed)
        steps = Steps()
        expected = steps.run()
        os.sched_setaffinity(0, {taken})
        os.sched_setaffinity(steps.worker, {taken})  # brings it there
        os.sched_setaffinity(steps.worker, allowed)  # and lets it go where it likes
        for _ in range(50):
            np.testing.assert_array_equal(steps.run(), expected)
            if steps.core_of_worker() == neighbour:
                break
        assert steps.core_of_worker() == neighbour
        assert os.sched_getaffinity(steps.worker) == allowed, "it is bound to nothing afterwards"
        assert os.sched_getaffinity(0) == {taken}, "the caller is left alone"


def test_workers_that_have_one_core_only_share_it(allowed: set[int]) -> None:
    steps = Steps()
    expected = steps.run()
    only = {max(allowed)}
    steps.core_of_worker()  # it moves no more
    for thread in (0, steps.worker):
        os.sched_setaffinity(thread, only)
    for _ in range(3):
        np.testing.assert_array_equal(steps.run(), expected)
    assert steps.core_of_worker() in only
    assert os.sched_getaffinity(steps.worker) == only
