"""Where all threads are, for those who look into a server that does not answer: `kill -USR1 <pid>`."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


@contextmanager
def stacks_on_signal() -> Iterator[None]:
    """SIGUSR1 writes the Python stack of every thread to the standard error, and changes nothing else.

    Written by the handler itself, so that it also works where the event loop or the GIL is stuck. Does
    nothing where somebody else hears this signal, or where there is none.
    """
    number = getattr(signal, "SIGUSR1", None)
    if number is None or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    faulthandler.register(number, file=_STDERR, all_threads=True, chain=False)
    try:
        yield
    finally:
        faulthandler.unregister(number)
