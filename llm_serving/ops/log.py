"""Logging: plain lines on stderr. Set up by `main.py` and the CLI only; never prompts, never keys."""

from __future__ import annotations

import logging
import sys

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
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
    logging.getLogger("uvicorn.access").disabled = True
