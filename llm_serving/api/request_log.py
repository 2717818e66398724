"""One line a request in the log, written a moment later with others: in between it costs twice the time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

logger = logging.getLogger(__name__)

_DELAY_S = 0.05


class Line(NamedTuple):
    """What is said of a request; `facts` is what it was about."""

    method: str
    path: str
    status: int
    seconds: float
    request_id: str
    facts: Mapping[str, object]

    def __str__(self) -> str:
        facts = "".join(f" {name}={value}" for name, value in self.facts.items())
        time_ms = f"{self.seconds * 1e3:.0f}ms"
        return f"{self.method} {quote(self.path)} {self.status} {time_ms} id={self.request_id}{facts}"


class RequestLog:
    """Keeps lines for `_DELAY_S` at most; each has the time at which it was added. Event loop only."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Line]] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # whose timer will write them

    def add(self, level: int, line: Line) -> None:
        """Keep `line` if the log shows this level."""
        if not logger.isEnabledFor(level):
            return
        loop = asyncio.get_running_loop()
        if not self._waiting or loop is not self._loop:  # which may have ended before its timer
            self._loop = loop
            loop.call_later(_DELAY_S, self.flush)
        self._waiting.append((time.time(), level, line))

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        for num_left, (created_s, level, line) in zip(range(len(waiting) - 1, -1, -1), waiting, strict=True):
            record = logger.makeRecord(logger.name, level, __file__, 0, str(line), (), None)
            record.created = created_s
            record.msecs = created_s % 1 * 1e3
            record.has_more = num_left > 0
            logger.handle(record)
