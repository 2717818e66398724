"""The `llm-serving` program. `main` is the entry point; everything else loads when a command needs it."""

from __future__ import annotations


def main() -> None:
    """Run the program and exit: 0 fine, 1 a check found problems, 2 an error, 130 Ctrl-C."""
    from llm_serving.cli.program import run

    raise SystemExit(run())
