"""Steps of chat models and encoders on the same cores: who waits for whom, whatever anything takes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S

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
        self.join(PATIENCE_S)
        return not self.is_alive()


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="no /proc that says who sleeps")


@pytest.mark.parametrize("side", [CHAT, ENCODERS])
def test_who_is_alone_never_waits(side: object) -> None:
    turns = core.Turns(0.0, 0.0)
    for _ in range(3):
        turn = core.Turn(turns, side)
        turn.pass_()
        turn.leave()


@needs_proc
def test_encoders_wait_for_the_end_of_a_chat_step() -> None:
    turns = core.Turns(LONG_S, 1.0)
    chat = core.Turn(turns, CHAT)
    encoder = Attempt(lambda: core.Turn(turns, ENCODERS))
    assert encoder.waits
    chat.pass_()
    chat.leave()
    assert encoder.ends()


@needs_proc
def test_chat_takes_the_cores_from_encoders_that_were_owed_nothing() -> None:
    turns = core.Turns(LONG_S, 1.0)
    encoder = core.Turn(turns, ENCODERS)
    chat = core.Turn(turns, CHAT)
    passing = Attempt(encoder.pass_)  # stops between two tiles
    assert passing.waits
    chat.leave()
    assert passing.ends()


@needs_proc
def test_chat_comes_back_after_the_encoders_share() -> None:
    turns = core.Turns(LONG_S, 1e9)
    encoder = core.Turn(turns, ENCODERS)
    core.Turn(turns, CHAT).leave()  # the encoders are owed 1e9 times as long
    chat = Attempt(lambda: core.Turn(turns, CHAT))
    encoder.pass_()
    assert chat.waits
    encoder.leave()  # they have nothing more to do
    assert chat.ends()


def test_without_a_share_chat_comes_back_at_once() -> None:
    turns = core.Turns(LONG_S, 0.0)
    encoder = core.Turn(turns, ENCODERS)
    for _ in range(3):
        core.Turn(turns, CHAT).leave()
    encoder.leave()


def test_a_long_step_is_interrupted() -> None:
    turns = core.Turns(0.0, 1e9)
    chat = core.Turn(turns, CHAT)
    encoder = core.Turn(turns, ENCODERS)  # the slice is over
    encoder.leave()
    chat.pass_()
    chat.leave()


@needs_proc
@pytest.mark.parametrize("side", [CHAT, ENCODERS])
def test_steps_of_one_side_run_one_after_another_who_waited_longest_first(side: object) -> None:
    turns = core.Turns(LONG_S, 1.0)
    first, order = core.Turn(turns, side), []

    def step(number: int) -> None:
        turn = core.Turn(turns, side)
        order.append(number)
        turn.leave()

    steps = []
    for number in range(3):
        steps.append(Attempt(lambda number=number: step(number)))
        assert steps[-1].waits
    first.pass_()
    assert not order
    first.leave()
    assert all(attempt.ends() for attempt in steps)
    assert order == [0, 1, 2]


@needs_proc
def test_encoders_come_behind_every_chat_step_however_many_chat_models_wait() -> None:
    turns = core.Turns(LONG_S, 1e9)
    first, order = core.Turn(turns, CHAT), []

    def step(name: str, side: object) -> None:
        turn = core.Turn(turns, side)
        order.append(name)
        turn.leave()

    waiting = [("chat", CHAT), ("another chat", CHAT), ("encoder", ENCODERS), ("another encoder", ENCODERS)]
    steps = []
    for name, side in waiting:
        steps.append(Attempt(lambda name=name, side=side: step(name, side)))
        assert steps[-1].waits
    first.leave()
    assert all(attempt.ends() for attempt in steps)
    assert order == ["encoder", "chat", "another encoder", "another chat"]


def test_everybody_always_ends() -> None:
    """Steps of six threads, hurried by slices of no length: everybody gets through."""
    turns = core.Turns(0.0, 1.0)

    def steps(side: object) -> None:
        for _ in range(300):
            turn = core.Turn(turns, side)
            for _ in range(5):
                turn.pass_()
            turn.leave()

    sides = (CHAT, ENCODERS, ENCODERS, CHAT, CHAT, ENCODERS)
    threads = [Attempt(lambda side=side: steps(side)) for side in sides]
    assert all(thread.ends() for thread in threads)


@pytest.mark.parametrize("sides", [(CHAT, ENCODERS), (CHAT, CHAT, ENCODERS)])
def test_plans_take_turns(sides: tuple[object, ...]) -> None:
    """A step with the process's turns computes the same whether or not others compute meanwhile."""
    plans = [_doubling_plan(side) for side in sides]
    alone = [run() for run in plans]
    wrong: list[int] = []

    def repeat(index: int) -> None:
        for _ in range(200):
            if not np.array_equal(plans[index](), alone[index]):
                wrong.append(index)

    threads = [Attempt(lambda index=index: repeat(index)) for index in range(len(plans))]
    assert all(thread.ends() for thread in threads)
    assert not wrong


@needs_proc
def test_encoders_let_others_go_first_but_not_all_that_the_program_starts() -> None:
    run, niceness = _doubling_plan(ENCODERS), []

    def encode() -> None:
        run()
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, 0)
    encode()
    assert Attempt(encode).ends()
    assert niceness == [before, max(before, 3)]


@needs_proc
def test_encoders_are_as_nice_as_they_were_where_that_is_nicer() -> None:
    run, niceness = _doubling_plan(ENCODERS), []

    def encode() -> None:
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, 15)
        run()
        niceness.append(os.getpriority(os.PRIO_PROCESS, own))

    assert Attempt(encode).ends()
    assert niceness == [15]


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
