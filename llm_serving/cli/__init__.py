"""The `llm-serving` program. `main` is the entry point; everything else loads when a command needs it."""

from __future__ import annotations

import contextlib
import os
import sys


def main() -> None:
    """Run the program and exit: 0 fine, 1 a check found problems, 2 an error, 130 Ctrl-C."""
    from llm_serving.cli.program import run

    code = run()
    if code == 130:  # Python would wait for threads, and those of the hub's library end with their downloads
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)
