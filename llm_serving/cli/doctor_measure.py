"""The figures of `llm-serving doctor --measure`, for people and as JSON."""

from __future__ import annotations

from typing import Any

import click

from llm_serving.cli.terminal import print_table
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.measure import INSTRUCTIONS, MachineLimits, Rate, machine_limits


def measure(threads: int = 0) -> MachineLimits:
    """The limits with so many threads, 0 for all that are granted; says on stderr what it is doing.

    Raises: ExtensionMissing.
    """
    return machine_limits(
        threads or cpu_budget().threads,
        on_progress=lambda text: click.echo(f"Measuring {text} …", err=True),
    )


def limits_as_json(limits: MachineLimits) -> dict[str, Any]:
    """GB/s and GOP/s (10⁹, a multiply and an add are two); null where this CPU cannot."""
    return {
        "threads": limits.threads,
        "read_bytes": limits.read_bytes,
        "read_gb_s": _rate(limits.read),
        "peak_gop_s": {name: peak and _rate(peak) for name, peak in limits.peaks.items()},
        "cores_are_real": limits.cores_are_real,
    }


def print_limits(limits: MachineLimits) -> None:
    """A table of what this CPU can, and what it says about the cores."""
    rows = [["streaming read", "GB/s", *_cells(limits.read)]]
    for name, text in INSTRUCTIONS.items():
        if peak := limits.peaks[name]:
            unit = "GFLOP/s" if name.endswith("f32") else "GOP/s"
            rows.append([text, unit, *_cells(peak)])
    click.echo()
    print_table(["limit", "", "1 thread", f"all {limits.threads}", "ratio"], rows, numbers_from=2)
    if limits.cores_are_real is not None:
        click.echo(
            f"\nThe cores are real: {limits.threads} threads do about {limits.threads} times what one does."
            if limits.cores_are_real
            else f"\nThe {limits.threads} threads share execution units, or something else was running."
        )


def _rate(rate: Rate) -> dict[str, float]:
    return {"one_thread": rate.one / 1e9, "all_threads": rate.all / 1e9, "ratio": rate.ratio}


def _cells(rate: Rate) -> list[str]:
    return [f"{rate.one / 1e9:.1f}", f"{rate.all / 1e9:.1f}", f"{rate.ratio:.2f}"]
