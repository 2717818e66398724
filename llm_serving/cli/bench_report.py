"""From outcomes to the numbers that are printed. Every formula is part of the output."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from llm_serving.cli.bench_load import LoadPlan, LoadResult
from llm_serving.cli.terminal import print_table

FORMULAS = {
    "ttft_ms": "first event with text - request sent (open loop: planned arrival)",
    "itl_ms": "(last event with text - first event with text) / (output tokens - 1), one value a request",
    "gap_ms": "silence between two events with text, all requests together",
    "e2e_ms": "end of the answer - request sent (open loop: planned arrival)",
    "output_tok_s": "output tokens of all good requests, as counted by the server's usage / wall time",
}
_PERCENTILES = (50, 95, 99)


def summarize(plan: LoadPlan, result: LoadResult) -> dict[str, Any]:
    """All facts of one load run; times in milliseconds, rates per second."""
    good = [outcome for outcome in result.outcomes if not outcome.error]
    failed = [outcome for outcome in result.outcomes if outcome.error]
    output_tokens = sum(outcome.output_tokens for outcome in good)
    prompt_tokens = sum(outcome.prompt_tokens for outcome in good)
    spoke = [outcome for outcome in good if outcome.first_s]
    wall_s = max(result.wall_s, 1e-9)
    return {
        "mode": "closed loop" if plan.rate is None else "open loop",
        "clients": plan.clients if plan.rate is None else None,
        "rate": plan.rate,
        "requests": len(result.outcomes),
        "succeeded": len(good),
        "errors": dict(sorted(Counter(outcome.error for outcome in failed).items())),
        "first_error": next((outcome.detail for outcome in failed if outcome.detail), None),
        "wall_s": result.wall_s,
        "requests_s": len(good) / wall_s,
        "prompt_tokens": prompt_tokens,
        "cached_tokens": sum(outcome.cached_tokens for outcome in good),
        "output_tokens": output_tokens,
        "prompt_tok_s": prompt_tokens / wall_s,
        "output_tok_s": output_tokens / wall_s,
        "ttft_ms": _spread([outcome.first_s - outcome.start_s for outcome in spoke]),
        "itl_ms": _spread(
            [
                (outcome.last_s - outcome.first_s) / (outcome.output_tokens - 1)
                for outcome in spoke
                if outcome.output_tokens > 1
            ]
        ),
        "gap_ms": _spread([gap for outcome in spoke for gap in outcome.gaps_s]),
        "e2e_ms": _spread([outcome.end_s - outcome.start_s for outcome in good]),
        "formulas": FORMULAS,
    }


def print_summary(summary: dict[str, Any]) -> None:
    """The same facts as tables."""
    load = f"{summary['clients']} clients" if summary["rate"] is None else f"{summary['rate']:g} requests/s"
    click.echo(
        f"{summary['mode']}, {load}: {summary['succeeded']} of {summary['requests']} requests answered "
        f"in {summary['wall_s']:.2f} s"
    )
    click.echo(
        f"{summary['requests_s']:.2f} requests/s, {summary['output_tok_s']:.1f} output tok/s, "
        f"{summary['prompt_tok_s']:.1f} prompt tok/s ({summary['prompt_tokens']} prompt tokens, "
        f"{summary['cached_tokens']} of them cached; {summary['output_tokens']} output tokens)\n"
    )
    rows = [
        [label, *(_number(summary[key].get(column)) for column in ("mean", "p50", "p95", "p99", "max"))]
        for label, key in (("TTFT", "ttft_ms"), ("ITL", "itl_ms"), ("gap", "gap_ms"), ("e2e", "e2e_ms"))
    ]
    print_table(["ms", "mean", "p50", "p95", "p99", "max"], rows, numbers_from=1)
    if summary["errors"]:
        counts = ", ".join(f"{count} × {error}" for error, count in summary["errors"].items())
        first = f" (first: {summary['first_error']})" if summary["first_error"] else ""
        click.echo(f"\nErrors: {counts}{first}")
    click.echo("\n" + "\n".join(f"{key}: {text}" for key, text in FORMULAS.items()))


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: a value that was really measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    spread = {f"p{percent}": percentile(seconds, percent) * 1e3 for percent in _PERCENTILES}
    return {"mean": sum(seconds) / len(seconds) * 1e3, **spread, "max": max(seconds) * 1e3}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
