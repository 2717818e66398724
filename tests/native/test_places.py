"""Workers have a core each where they are as many as cores; whoever calls them stays as free as before."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm_serving.native.core import load_core

core = load_core()
TASKS = Path("/proc/self/task")
pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="threads can be bound on Linux only"
)


@pytest.fixture
def allowed() -> Iterator[set[int]]:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    yield before
    os.sched_setaffinity(0, before)


def threads() -> set[int]:
    return {int(task.name) for task in TASKS.iterdir()}


def places_of_workers(num_threads: int) -> list[set[int]]:
    """Start a plan, run a step; the cores each of its own threads may use."""
    before = threads()
    plan = core.Plan(num_threads, "auto", 16, 16)
    table = np.zeros((16, 32), np.float32)
    buffer = plan.buffer(32)
    plan.embed(plan.pack("F32", table.view(np.uint8).reshape(-1), 16, 32, "f32", None), buffer)
    zero, tables = np.zeros(1, np.int32), np.zeros((1, 0), np.int32)
    plan.run(zero, zero, np.array([0, 1], np.int32), tables, np.zeros(0, np.int32), buffer)
    return [os.sched_getaffinity(thread) for thread in threads() - before]


def test_as_many_workers_as_cores_have_one_each(allowed: set[int]) -> None:
    places = places_of_workers(len(allowed))
    assert sorted(places, key=min) == [{cpu} for cpu in sorted(allowed)[1:]]
    assert os.sched_getaffinity(0) == allowed, "the caller is free again"


def test_fewer_workers_go_where_they_like(allowed: set[int]) -> None:
    assert all(place == allowed for place in places_of_workers(max(2, len(allowed) - 1))[: len(allowed) - 2])
    assert os.sched_getaffinity(0) == allowed


def test_a_smaller_mask_counts_and_stays(allowed: set[int]) -> None:
    """As under `taskset`: two workers on one core are not told to share it, and nobody leaves the mask."""
    only = {min(allowed)}
    os.sched_setaffinity(0, only)
    assert places_of_workers(2) == [only]
    assert os.sched_getaffinity(0) == only


def test_a_core_that_is_taken_away_stops_nobody(allowed: set[int]) -> None:
    plan = core.Plan(len(allowed), "auto", 16, 16)
    table = np.zeros((16, 32), np.float32)
    buffer = plan.buffer(32)
    plan.embed(plan.pack("F32", table.view(np.uint8).reshape(-1), 16, 32, "f32", None), buffer)
    last = {max(allowed)}
    os.sched_setaffinity(
        0, last
    )  # of this thread, which now is no longer allowed where worker 0 has its place
    zero, tables = np.zeros(1, np.int32), np.zeros((1, 0), np.int32)
    done = threading.Event()

    def run() -> None:
        plan.run(zero, zero, np.array([0, 1], np.int32), tables, np.zeros(0, np.int32), buffer)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert done.wait(10)
    thread.join()
    assert os.sched_getaffinity(0) == last
