"""Draw what the benchmarks wrote with --json, one SVG a table, for docs/performance.md.

    python benchmarks/plots.py engine.json chat.json --out docs/plots

Rows that end in a number ("decode 16 × context 128", "8 clients") become a curve over that number where
all rows of a group differ only in it; other rows become bars. The median is drawn, least and greatest are
the whiskers.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from results import OURS

NUMBER = re.compile(r"\d+(?:\.\d+)?")
Cells = dict[str, list[float | None]]
Curve = list[tuple[float, str]]  # (where on the axis, the row's name)


def curves(rows: dict[str, Cells]) -> dict[str, Curve]:
    """Rows by their name with one number left out: those groups that have three or more points.

    A row may belong to two groups ("decode 1 × context 128" to both numbers' curves).
    """
    groups: dict[str, Curve] = {}
    for name in rows:
        for match in NUMBER.finditer(name):
            pattern = f"{name[: match.start()]}N{name[match.end() :]}"
            groups.setdefault(pattern, []).append((float(match[0]), name))
    return {pattern: sorted(points) for pattern, points in groups.items() if len(points) >= 3}


def draw_curves(axes: Any, table: dict[str, Any], points: Curve) -> None:
    for engine in table["engines"]:
        known = [
            (x, [v for v in table["rows"][row][engine] if v is not None])
            for x, row in points
            if any(v is not None for v in table["rows"][row][engine])
        ]
        if not known:
            continue
        middle = [statistics.median(values) for _, values in known]
        low = [m - min(values) for m, (_, values) in zip(middle, known, strict=True)]
        high = [max(values) - m for m, (_, values) in zip(middle, known, strict=True)]
        width = 2.5 if engine == OURS else 1.2
        axes.errorbar(
            [x for x, _ in known],
            middle,
            yerr=[low, high],
            marker="o",
            markersize=4,
            capsize=3,
            lw=width,
            label=engine,
        )
    axes.set_xscale("log" if points[0][0] > 0 else "symlog", base=2)
    axes.set_xticks([x for x, _ in points], [f"{x:g}" for x, _ in points])
    axes.set_ylim(bottom=0)


def draw_bars(axes: Any, table: dict[str, Any], names: list[str]) -> None:
    engines = table["engines"]
    width = 0.8 / len(engines)
    for i, engine in enumerate(engines):
        for j, name in enumerate(names):
            values = [v for v in table["rows"][name][engine] if v is not None]
            if values:
                middle = statistics.median(values)
                spread = [[middle - min(values)], [max(values) - middle]]
                where = j + (i - (len(engines) - 1) / 2) * width
                axes.bar(where, middle, width, yerr=spread, color=f"C{i}", label=engine if j == 0 else None)
    axes.set_xticks(range(len(names)), names, rotation=15, ha="right", fontsize=8)


def figure(table: dict[str, Any], title: str, path: Path, points: Curve | None, names: list[str]) -> None:
    picture, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    if points:
        draw_curves(axes, table, points)
        axes.set_xlabel(title)
    else:
        draw_bars(axes, table, names)
    axes.set_title(table["title"], fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    picture.savefig(path, metadata={"Date": None})
    plt.close(picture)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/plots"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "llm_serving"  # the same results give the same file
    for file in arguments.results:
        for number, table in enumerate(json.loads(file.read_text()).get("tables", [])):
            if not table["rows"]:
                continue
            lines = curves(table["rows"])
            for which, (pattern, points) in enumerate(lines.items()):
                path = arguments.out / f"{file.stem}-{number}-{which}.svg"
                figure(table, pattern, path, points, [])
            drawn = {row for points in lines.values() for _, row in points}
            rest = [row for row in table["rows"] if row not in drawn]
            if rest:
                figure(table, "", arguments.out / f"{file.stem}-{number}-bars.svg", None, rest)


if __name__ == "__main__":
    main()
