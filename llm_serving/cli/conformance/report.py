"""Verdicts for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from llm_serving.cli.conformance.check import Verdict
from llm_serving.cli.conformance.server import Server
from llm_serving.cli.terminal import harmless

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow", "info": "blue"}


class Printer:
    """A line a verdict as it is found, under its group's name; of a failure, what was sent and seen."""

    def __init__(self) -> None:
        self._group = ""

    def __call__(self, verdict: Verdict) -> None:
        if verdict.group != self._group:
            self._group = verdict.group
            click.secho(f"\n{verdict.group}", bold=True)
        remark = f"  {harmless(verdict.seen)}" if verdict.seen and verdict.status != "failed" else ""
        status = click.style(verdict.status.ljust(8), fg=_COLOURS[verdict.status])
        click.echo(f"  {status} {f'{verdict.name:<26}{remark}'.rstrip()}")
        if verdict.status == "failed":
            lines = {"expected": verdict.expected, "as in": verdict.source, "sent": verdict.sent}
            for name, text in {**lines, "seen": verdict.seen}.items():
                click.echo(f"           {click.style(name.ljust(8), dim=True)} {harmless(text)}")


def report_of(server: Server, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Everything, for programs. `score` is the share of passed ones among passed and failed, or null."""
    counts = Counter(verdict.status for verdict in verdicts)
    judged = counts["passed"] + counts["failed"]
    return {
        "url": server.base,
        "model": server.model or None,
        "embedding_model": server.embedding_model or None,
        "passed": counts["passed"],
        "failed": counts["failed"],
        "skipped": counts["skipped"],
        "score": counts["passed"] / judged if judged else None,
        "checks": [asdict(verdict) for verdict in verdicts],
    }


def print_score(report: dict[str, Any]) -> None:
    """The last lines."""
    judged = report["passed"] + report["failed"]
    if not judged:
        click.echo("\nNothing could be judged.")
        return
    # Rounded down: 100 % is said only where all passed.
    percent = 100 * report["passed"] // judged
    colour = _COLOURS["failed" if report["failed"] else "passed"]
    score = click.style(f"{report['passed']} of {judged} passed ({percent} %)", fg=colour, bold=True)
    click.echo(f"\n{score}, {report['failed']} failed, {report['skipped']} skipped.")
