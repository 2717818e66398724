"""Logging: plain lines on stderr. Set up by `main.py` and the CLI only; never prompts, never keys."""

from __future__ import annotations

import logging
import sys
import time

_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def configure_logging(level: str) -> None:
    """Show our own log at `level`; safe to call twice.

    uvicorn's access log goes quiet: the server writes one line a request itself, with the token counts.
    """
    logger = logging.getLogger("llm_serving")
    logger.setLevel(level.upper())
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter(_FORMAT))
        logger.addHandler(handler)
    logging.getLogger("uvicorn.access").disabled = True
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # nobody reads them


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
