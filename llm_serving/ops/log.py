"""Logging: plain lines on stderr. Set up by `main.py` and the CLI only; never prompts, never keys."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def configure_logging(level: str) -> None:
    """Show our own log at `level`; safe to call twice.

    uvicorn's access log goes quiet: the server writes one line a request itself, with the token counts.
    """
    logger = logging.getLogger("llm_serving")
    logger.setLevel(level.upper())
    logger.propagate = False
    if not logger.handlers:
        handler = _Handler(sys.stderr)
        handler.setFormatter(_Formatter(_FORMAT))
        logger.addHandler(handler)
    logging.getLogger("uvicorn.access").disabled = True
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # nobody reads them


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes records that come together by one system call: all but the last of them say `has_more`."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
            if not getattr(record, "has_more", False):
                lines, self._lines = self._lines, []
                self.stream.write("".join(lines))
                self.flush()
        except Exception:  # as logging asks: a log that fails must not fail the request
            self.handleError(record)


class _Formatter(logging.Formatter):
    """Writes out the time of day once a second: that is most of what a line costs."""

    _second = 0
    _time = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._time = time.strftime(self.default_time_format, time.localtime(second))
            self._second = second
        return f"{self._time},{int(record.msecs):03}"
