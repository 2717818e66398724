"""`llm-serving models` for names on the Hugging Face hub: fetch, show, remove what is in its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_serving.cli.terminal import fetch_progress, format_bytes, print_facts, print_json, print_table
from llm_serving.models import (
    HubModel,
    HubName,
    find_hub_models,
    find_model,
    list_hub_models,
    parse_hub_name,
    remove_hub_models,
    resolve_model,
)


def named(name: str) -> HubName | None:
    """None for what the catalogue knows, and for what cannot be on the hub."""
    return parse_hub_name(name) if find_model(name) is None else None


def listed() -> list[dict[str, Any]]:
    """What is here, for programs."""
    return [_facts(model) for model in list_hub_models()]


def print_list(facts: list[dict[str, Any]]) -> None:
    """A table of `listed()`, if there is anything."""
    if facts:
        click.echo()
        rows = [[fact["name"], format_bytes(fact["size"])] for fact in facts]
        print_table(["From the Hugging Face hub", "Size"], rows)


def pull(name: HubName, as_json: bool) -> None:
    """Fetch it, with what it sees with. Raises: as `resolve_model`."""
    with fetch_progress(str(name)) as on_progress:
        path = resolve_model(str(name), on_progress=on_progress)
    (model,) = [model for model in list_hub_models() if model.path == path] or [
        HubModel(str(name), path, 0, ())
    ]
    if as_json:
        print_json(_facts(model))
    else:
        click.echo(f"{model.name} is in {path} ({format_bytes(model.size)}).")


def show(name: HubName, as_json: bool) -> None:
    """Raises: ModelNotFound if nothing of it is here."""
    facts = [_facts(model) for model in find_hub_models(name)]
    if as_json:
        print_json(facts)
        return
    for fact in facts:
        print_facts([("Name", fact["name"]), ("Size", format_bytes(fact["size"])), ("Path", fact["path"])])


def remove(name: HubName, yes: bool) -> tuple[int, set[Path]]:
    """Bytes freed, and where the models were. Raises: ModelNotFound, DownloadError; click.Abort."""
    models = find_hub_models(name)
    if not yes:
        size = format_bytes(sum(model.size for model in models))
        click.confirm(f"Delete {', '.join(model.name for model in models)} ({size})?", abort=True, err=True)
    return remove_hub_models(name), {model.path for model in models}


def _facts(model: HubModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "size": model.size,
        "source": "Hugging Face hub",
        "installed": True,
        "path": str(model.path),
    }
