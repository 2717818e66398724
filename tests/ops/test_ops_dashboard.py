"""The dashboard for Grafana asks for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from llm_serving.embeddings.batcher import BatcherStats
from llm_serving.engine.protocol import EngineStats
from llm_serving.engine.request import FinishReason, Timings, TokenEvent
from llm_serving.ops.metrics import Metrics

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana-dashboard.json").read_text("utf-8"))
OF_PROMETHEUS = {"job", "instance"}  # labels that a scrape adds


def labels_by_name() -> dict[str, set[str]]:
    """Every sample of `/metrics` once everything has happened, and its labels."""
    metrics = Metrics(
        lambda: True, lambda: {"tiny": EngineStats("cpu")}, lambda: {"embedding": BatcherStats()}
    )
    metrics.observe(TokenEvent("r", (), "", FinishReason.STOP, 3, 0, 2, Timings()), "tiny")
    metrics.requests.labels("/chat/completions", 200).inc()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(item: Any) -> Iterator[str]:
    """What panels and variables ask Prometheus for, wherever it stands."""
    if isinstance(item, dict):
        for name, value in item.items():
            if name in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(item, list):
        for each in item:
            yield from expressions(each)


def names_of(expression: str) -> set[str]:
    return set(re.findall(r"\bllm_serving_\w+", expression))


def test_every_metric_and_label_is_one_of_ours() -> None:
    known = labels_by_name()
    asked = [expression for expression in expressions(DASHBOARD) if names_of(expression)]
    assert len(asked) > 30
    for expression in asked:
        names = names_of(expression)
        assert names <= set(known), expression
        labels = set(re.findall(r"(\w+)=~?\"", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            labels.update(label.strip() for label in group.split(","))
        for name in names:
            assert labels <= known[name] | OF_PROMETHEUS, expression


def test_every_panel_asks_something_by_its_own_id() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] == "row" or all(names_of(target["expr"]) for target in panel["targets"])


def test_panels_do_not_cover_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
