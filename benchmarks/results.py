"""What a benchmark measured: one value for each row, engine and repeat; printed as Markdown, kept as JSON.

Engines take turns within a repeat, so a ratio compares two measurements of the same minute. Every table gives
median (least to greatest) of the repeats, and the same of the ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_serving.native.cpu import cpu_budget

OURS = "llm_serving"


class Results:
    """Values of one kind, their unit named in the title; `better`: "higher", "lower" or "" (no ratios)."""

    def __init__(self, title: str, engines: Sequence[str], better: str = "higher", digits: int = -1) -> None:
        self.title, self.engines, self.better, self.digits = title, list(engines), better, digits
        self.values: dict[str, dict[str, list[float | None]]] = {}

    def add(self, row: str, engine: str, value: float | None) -> None:
        """One repeat's value; None where the engine cannot do this row. Every engine gets one each repeat."""
        cells = self.values.setdefault(row, {name: [] for name in self.engines})
        cells[engine].append(value)
        text = "-" if value is None else f"{value:.4g}"
        print(f"# {self.title} | {row} | {engine}: {text}", file=sys.stderr, flush=True)

    def markdown(self) -> str:
        peers = [name for name in self.engines if name != OURS]
        ratios = [f"ours / {name}" if self.better == "higher" else f"{name} / ours" for name in peers]
        if OURS not in self.engines or not self.better:
            peers = ratios = []
        lines = [f"**{self.title}**", "", "| | " + " | ".join([*self.engines, *ratios]) + " |"]
        lines.append("|---" * (1 + len(self.engines) + len(ratios)) + "|")
        for row, cells in self.values.items():
            texts = [_spread(_known(cells[name]), self.digits) for name in self.engines]
            texts += [_spread(self._ratios(cells[OURS], cells[name])) for name in peers]
            lines.append(f"| {row} | " + " | ".join(texts) + " |")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {"title": self.title, "better": self.better, "engines": self.engines, "rows": self.values}

    def _ratios(self, ours: Iterable[float | None], peer: Iterable[float | None]) -> list[float]:
        pairs = [(a, b) for a, b in zip(ours, peer, strict=True) if a and b]
        return [a / b if self.better == "higher" else b / a for a, b in pairs]


class Deadline:
    """Ends a run in time: asked before every row, so that rows stay complete. 0 minutes: no bound."""

    def __init__(self, minutes: float) -> None:
        self._end_s = time.monotonic() + 60 * minutes if minutes else float("inf")

    def is_over(self) -> bool:
        return time.monotonic() > self._end_s


def turns(engines: Sequence[str], repeat: int) -> list[str]:
    """The order of this repeat: there and back, so that nobody is always first."""
    return list(engines) if repeat % 2 == 0 else list(engines)[::-1]


def facts() -> dict[str, Any]:
    """Where and on what was measured."""
    budget = cpu_budget()
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": commit.stdout.strip(),
        "command": " ".join(["benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "cpu": budget.model_name,
        "isa": " ".join(budget.isa),
        "threads": budget.threads,
        "load_average": round(os.getloadavg()[0], 2),
    }


def save(tables: Sequence[Results], path: Path | None, **more: Any) -> None:
    """Write everything so far, where a path is given: a run that is cut off has lost nothing."""
    if path:
        known = {**facts(), **more, "tables": [table.as_json() for table in tables]}
        path.write_text(json.dumps(known, indent=1))


def publish(tables: Sequence[Results], path: Path | None, **more: Any) -> None:
    """Print the tables, and write everything to `path` where one is given."""
    known = facts()
    print(f"{known['date']}, {known['commit']}, {known['cpu']}, {known['threads']} threads; median (min–max)")
    print(f"`{known['command']}`\n")
    print("\n\n".join(table.markdown() for table in tables if table.values))
    save(tables, path, **more)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _spread(values: Sequence[float], digits: int = -1) -> str:
    if not values:
        return "–"
    middle = statistics.median(values)
    if digits < 0:
        digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"
