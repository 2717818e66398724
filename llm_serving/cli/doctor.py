"""`llm-serving doctor`: is this machine ready, and what would be used."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from llm_serving.cli.terminal import print_json

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command("doctor")
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False), help="Where models are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--measure", "measured", is_flag=True, help="Measure memory and arithmetic too: some seconds, 1 GiB."
)
def command(cache_dir: Path | None, as_json: bool, measured: bool) -> int:
    """Check this machine and say what would be used. Ends with 1 if there is a problem."""
    from llm_serving.cli.doctor_checks import all_checks
    from llm_serving.cli.doctor_measure import limits_as_json, measure, print_limits

    checks = all_checks(cache_dir)
    problems = sum(check.status == "problem" for check in checks)
    if as_json:
        report = {"ok": not problems, "checks": [asdict(check) for check in checks]}
        print_json({**report, "limits": limits_as_json(measure())} if measured else report)
        return 1 if problems else 0
    for check in checks:
        status = click.style(check.status.ljust(8), fg=_COLOURS[check.status])
        click.echo(f"{status} {check.name.ljust(9)} {check.text}")
        if check.remedy:
            click.echo(f"{' ' * 19}→ {check.remedy}")
    if measured:
        print_limits(measure())
    return 1 if problems else 0
