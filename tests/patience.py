"""Waiting for what another thread or process does.

The deadline only ends a test that would hang. It says nothing of how fast a machine is: one that is busy with
other things may stop anybody for seconds.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable

PATIENCE_S = 60.0


class Gate:
    """Lets steps pass, with `before_step=gate.pass_` for a `FakeRunner`, until a test shuts it.

    Nobody waits there for ever: a test that fails does not hang.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_left = math.inf

    def shut(self) -> None:
        with self._changed:
            self._num_left = 0.0

    def open(self, num: float = math.inf) -> None:
        """For everybody, or for the next `num`."""
        with self._changed:
            self._num_left = num
            self._changed.notify_all()

    def pass_(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._num_left > 0, PATIENCE_S), "the gate stayed shut"
            self._num_left -= 1


def wait_until(
    condition: Callable[[], object], failure: str = "it did not happen", within_s: float = PATIENCE_S
) -> None:
    """Look every few ms, on the test's own thread. Raises: AssertionError with `failure`."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, failure
        time.sleep(0.005)


async def until(condition: Callable[[], object], failure: str = "it did not happen") -> None:
    """The same on an event loop, which goes on."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, failure
        await asyncio.sleep(0.001)
