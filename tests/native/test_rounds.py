"""Operations follow each other when all tiles are done, whoever did them and whoever lost its core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_serving.native.core import load_core

core = load_core()
TASKS = Path("/proc/self/task")
WIDTH, TOKENS, OPERATIONS = 64, 9, 150
STARTS, TABLES, NONE = np.array([0, TOKENS], np.int32), np.zeros((1, 0), np.int32), np.zeros(0, np.int32)


class Steps:
    """A plan of many operations of a few microseconds, one tile or several each; knows its worker threads."""

    def __init__(self, threads: int) -> None:
        before = _threads()
        plan: Any = core.Plan(threads, "auto", TOKENS, TOKENS)
        self.workers = _threads() - before
        random = np.random.default_rng(1)

        def matrix(rows: int) -> int:
            values = random.standard_normal((rows, WIDTH), dtype=np.float32) / np.float32(8)
            packed: int = plan.pack("F32", values.view(np.uint8).reshape(-1), rows, WIDTH, "q8", None)
            return packed

        rows, wide = plan.buffer(WIDTH), plan.buffer(2 * WIDTH)
        gain = plan.vector(np.ones(WIDTH, np.float32))
        up, down = matrix(2 * WIDTH), matrix(WIDTH)
        plan.embed(matrix(16), rows)
        for _ in range(OPERATIONS // 4):
            plan.quantize(rows, gain, -1, 1e-5)
            plan.linear([(up, -1, wide, 0)])
            plan.gated(wide, WIDTH)
            plan.linear([(down, -1, rows, 0)], True)
        self._plan, self._out = plan, rows

    def run(self, seed: int) -> bytes:
        ids = np.random.default_rng(seed).integers(0, 16, TOKENS).astype(np.int32)
        rows: np.ndarray = self._plan.run(
            ids, np.arange(TOKENS, dtype=np.int32), STARTS, TABLES, NONE, self._out
        )
        assert np.isfinite(rows).all()
        return rows.tobytes()


def _threads() -> set[int]:
    return {int(task.name) for task in TASKS.iterdir()} if TASKS.exists() else set()


@pytest.fixture
def neighbour() -> Iterator[int]:
    """A core that another process keeps busy."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("only Linux binds threads to cores")
    taken = max(os.sched_getaffinity(0))
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.sched_setaffinity(process.pid, {taken})
    yield taken
    process.kill()
    process.wait()


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_steps_are_those_of_one_thread(threads: int) -> None:
    one, many = Steps(1), Steps(threads)
    for seed in range(100):
        assert many.run(seed) == one.run(seed)


def test_workers_that_seldom_have_their_core(neighbour: int) -> None:
    """They come late, in the middle of a step or of a later one, and find where the others are."""
    one, many = Steps(1), Steps(3)
    for worker in many.workers:
        os.sched_setaffinity(worker, {neighbour})
        os.setpriority(os.PRIO_PROCESS, worker, 10)
    for seed in range(40):
        assert many.run(seed) == one.run(seed)


def test_all_on_one_core_with_somebody_else(neighbour: int) -> None:
    one, many = Steps(1), Steps(3)
    before = os.sched_getaffinity(0)
    try:
        for thread in (0, *many.workers):
            os.sched_setaffinity(thread, {neighbour})
        for seed in range(40):
            assert many.run(seed) == one.run(seed)
    finally:
        os.sched_setaffinity(0, before)
