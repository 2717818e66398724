"""What SIGUSR1 does to a server, and to an app that hears it itself."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from llm_serving.ops.stacks import stacks_on_signal


def test_every_thread_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    ends = threading.Event()

    def waits_for_the_end() -> None:
        ends.wait(10)

    thread = threading.Thread(target=waits_for_the_end)
    thread.start()
    with stacks_on_signal():
        os.kill(os.getpid(), signal.SIGUSR1)
    ends.set()
    thread.join()
    shown = capfd.readouterr().err
    assert "in waits_for_the_end" in shown
    assert "in test_every_thread_is_shown" in shown


def test_who_hears_it_already_goes_on_to(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with stacks_on_signal():
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert heard == [signal.SIGUSR1]
    assert capfd.readouterr().err == ""
