"""What commands print with: tables, JSON, sizes, and a bar for a fetch."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from llm_serving.models import OnProgress, Progress

_PIPE_WIDTH = 400
_STAGES = {
    "waiting": "Waiting for another process that fetches",
    "downloading": "Downloading",
    "verifying": "Verifying",
    "unpacking": "Unpacking",
}
_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int = 99) -> None:
    """Columns on stdout; those from `numbers_from` on are aligned to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index >= numbers_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # A pipe has no width: nothing is folded there.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """`Name   value` lines on stdout; values are never cut."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {value}")


def harmless(text: str) -> str:
    """What others say must not steer the terminal: no control characters but newline and tab."""
    return text.translate(_CONTROL)


def format_bytes(num_bytes: int) -> str:
    """`98.4 MB`: powers of 1000, as disks and download pages count."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@contextlib.contextmanager
def fetch_progress(name: str) -> Iterator[OnProgress]:
    """A callback that draws a bar on stderr, or writes a line a stage where that is no terminal."""
    if not sys.stderr.isatty():
        yield _LinePerStage(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"Fetching {name}", start=False, visible=False)
        stage = ""

        def show(progress: Progress) -> None:
            nonlocal stage
            if progress.stage != stage:
                stage = progress.stage
                bar.reset(task, description=f"{_STAGES[stage]} {name}", start=True, visible=True)
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes or None)

        yield show


@contextlib.contextmanager
def count_progress(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A callback that draws a bar of how many are done on stderr, or writes a line a tenth."""
    if not sys.stderr.isatty():
        told = done * 10 // total

        def tell(count: int) -> None:
            nonlocal told
            if count * 10 // total > told:
                told = count * 10 // total
                click.echo(f"{what}: {count} of {total} …", err=True)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda count: bar.update(task, completed=count)


class _LinePerStage:
    """For logs and pipes: what happens, each stage once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            size = format_bytes(progress.total_bytes)
            click.echo(f"{_STAGES[self._stage]} {self._name} ({size}) …", err=True)
