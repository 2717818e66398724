"""Chat steps and encoder steps on the same cores: who waits for whom, whatever anything takes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm_serving.native.core import load_core

LONG_S = 1000.0  # longer than any test
core = load_core()
CHAT, ENCODERS = core.Side.CHAT, core.Side.ENCODERS


class Attempt(threading.Thread):
    """Calls something that may have to wait for a turn."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.start()

    def run(self) -> None:
        self._call()

    @property
    def waits(self) -> bool:
        """Whether it sleeps, not for the interpreter's lock, which is free while /proc is read."""
        stat = Path(f"/proc/self/task/{self.native_id}/stat")
        while self.is_alive():
            try:
                state = stat.read_text().rpartition(")")[2].split()[0]
            except OSError:  # it is gone
                return False
            if state == "S":
                return True
            time.sleep(0)
        return False

    def ends(self) -> bool:
        self.join(10)
        return not self.is_alive()


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="no /proc that says who sleeps")


@pytest.mark.parametrize("side", [CHAT, ENCODERS])
def test_who_is_alone_never_waits(side: object) -> None:
    turns = core.Turns(0.0, 0.0)
    for _ in range(3):
        turns.enter(side)
        turns.pass_(side)
        turns.leave(side)


@needs_proc
def test_encoders_wait_for_the_end_of_a_chat_step() -> None:
    turns = core.Turns(LONG_S, 1.0)
    turns.enter(CHAT)
    encoder = Attempt(lambda: turns.enter(ENCODERS))
    assert encoder.waits
    turns.pass_(CHAT)
    turns.leave(CHAT)
    assert encoder.ends()


@needs_proc
def test_chat_takes_the_cores_from_encoders_that_were_owed_nothing() -> None:
    turns = core.Turns(LONG_S, 1.0)
    turns.enter(ENCODERS)
    turns.enter(CHAT)
    encoder = Attempt(lambda: turns.pass_(ENCODERS))  # stops between two tiles
    assert encoder.waits
    turns.leave(CHAT)
    assert encoder.ends()


@needs_proc
def test_chat_comes_back_after_the_encoders_share() -> None:
    turns = core.Turns(LONG_S, 1e9)
    turns.enter(ENCODERS)
    turns.enter(CHAT)
    turns.leave(CHAT)  # the encoders are owed 1e9 times as long
    chat = Attempt(lambda: turns.enter(CHAT))
    turns.pass_(ENCODERS)
    assert chat.waits
    turns.leave(ENCODERS)  # they have nothing more to do
    assert chat.ends()


def test_without_a_share_chat_comes_back_at_once() -> None:
    turns = core.Turns(LONG_S, 0.0)
    turns.enter(ENCODERS)
    for _ in range(3):
        turns.enter(CHAT)
        turns.leave(CHAT)


def test_a_long_step_is_interrupted() -> None:
    turns = core.Turns(0.0, 1e9)
    turns.enter(CHAT)
    turns.enter(ENCODERS)  # the slice is over
    turns.leave(ENCODERS)
    turns.pass_(CHAT)
    turns.leave(CHAT)


def test_both_sides_always_end() -> None:
    """Steps of four threads, hurried by slices of no length: everybody gets through."""
    turns = core.Turns(0.0, 1.0)

    def steps(side: object) -> None:
        for _ in range(300):
            turns.enter(side)
            for _ in range(5):
                turns.pass_(side)
            turns.leave(side)

    threads = [Attempt(lambda side=side: steps(side)) for side in (CHAT, ENCODERS, ENCODERS, CHAT)]
    assert all(thread.ends() for thread in threads)


def test_plans_take_turns() -> None:
    """A step with the process's turns computes the same whether or not the other side computes meanwhile."""
    plans = {side: _doubling_plan(side) for side in (CHAT, ENCODERS)}
    alone = {side: run() for side, run in plans.items()}
    wrong: list[object] = []

    def repeat(side: object) -> None:
        for _ in range(200):
            if not np.array_equal(plans[side](), alone[side]):
                wrong.append(side)

    threads = [Attempt(lambda side=side: repeat(side)) for side in plans]
    assert all(thread.ends() for thread in threads)
    assert not wrong


def _doubling_plan(side: object) -> Callable[[], np.ndarray]:
    plan = core.Plan(2, "auto", 64, 64, side)
    table = np.random.default_rng(1).standard_normal((16, 32), dtype=np.float32)
    matrix = plan.pack("F32", table.view(np.uint8).reshape(-1), 16, 32, "f32", None)
    buffer = plan.buffer(32)
    plan.embed(matrix, buffer)
    tokens = np.arange(64, dtype=np.int32) % 16
    starts = np.array([0, 64], np.int32)

    def run() -> np.ndarray:
        positions = np.arange(64, dtype=np.int32)
        none = np.zeros(0, np.int32)
        return np.array(plan.run(tokens, positions, starts, np.zeros((1, 0), np.int32), none, buffer))

    return run
