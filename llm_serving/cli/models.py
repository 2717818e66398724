"""`llm-serving models`: what is known, what is here, fetch and remove."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from llm_serving.cli import hub_models, model_file
from llm_serving.cli.terminal import fetch_progress, format_bytes, print_facts, print_json, print_table
from llm_serving.errors import ModelNotFound, ServingError
from llm_serving.models import (
    ModelCache,
    ModelSpec,
    existing_path,
    find_model,
    list_installed,
    load_catalog,
    packed_directory,
    remove_model,
    resolve_model,
)
from llm_serving.native.packed_cache import PackedCache, PackedModel

_cache_dir = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where models are kept.  [LLM_SERVING_CACHE; ~/.cache/llm-serving]",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("models")
def command() -> None:
    """List, fetch, show and remove models.

    A NAME is one of the catalogue, or one on the Hugging Face hub: owner/model, or owner/model:Q4_K_M for
    one of several GGUF files.
    """


@command.command("list")
@_cache_dir
@_as_json
def list_models(cache_dir: Path | None, as_json: bool) -> None:
    """Show the catalogue and which of it is here, and what is here of the Hugging Face hub."""
    here = {model.spec.name: model.path for model in list_installed(cache_dir)}
    facts = [_facts(spec, here.get(spec.name)) for spec in load_catalog()]
    on_hub = hub_models.listed()
    if as_json:
        print_json([*facts, *on_hub])
        return
    rows = [
        [
            fact["name"],
            fact["kind"],
            "yes" if fact["installed"] else "no",
            format_bytes(fact["size"]),
            str(fact["context"]),
            fact["licence"],
            fact["description"],
        ]
        for fact in facts
    ]
    print_table(["Name", "Kind", "Here", "Size", "Context", "Licence", "Description"], rows)
    hub_models.print_list(on_hub)
    click.echo(
        f"\nCache: {ModelCache(cache_dir).root}. A path to a GGUF file or a model directory works too, "
        "and so does owner/model of the Hugging Face hub."
    )


@command.command()
@click.argument("name")
@_cache_dir
@_as_json
def pull(name: str, cache_dir: Path | None, as_json: bool) -> None:
    """Fetch a model, so that it starts without a network."""
    if (on_hub := hub_models.named(name)) is not None:
        hub_models.pull(on_hub, as_json)
        return
    spec = _known(name)
    with fetch_progress(spec.name) as on_progress:
        path = resolve_model(spec.name, cache_dir=cache_dir, on_progress=on_progress)
    if as_json:
        print_json(_facts(spec, path))
    else:
        click.echo(f"{spec.name} is in {path} ({format_bytes(spec.size)}, verified).")


@command.command()
@click.argument("name")
@_cache_dir
@_as_json
def show(name: str, cache_dir: Path | None, as_json: bool) -> None:
    """Show all that is known of a model, which may be a path, too."""
    if find_model(name) is None and (path := existing_path(name)) is not None:
        model_file.show(path, as_json)
        return
    if (on_hub := hub_models.named(name)) is not None:
        hub_models.show(on_hub, as_json)
        return
    spec = _known(name)
    facts = _facts(spec, ModelCache(cache_dir).find(spec))
    if as_json:
        print_json(facts)
        return
    print_facts(
        [
            ("Name", facts["name"]),
            ("Aliases", ", ".join(facts["aliases"])),
            ("Kind", facts["kind"]),
            ("Description", facts["description"]),
            ("Licence", facts["licence"]),
            ("Context", f"{facts['context']} tokens"),
            ("Size", f"{format_bytes(facts['size'])}, download {format_bytes(facts['download_size'])}"),
            *((f"SHA-256 of {file['path']}", file["sha256"]) for file in facts["files"]),
            ("Source", f"{facts['source']} on the package index"),
            ("Path", facts["path"] or "not fetched yet"),
        ]
    )


@command.command("rm")
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_cache_dir
def remove(name: str, yes: bool, cache_dir: Path | None) -> None:
    """Delete a model from the cache, and what was packed of it.

    Of the hub that is all that is here of owner/model, or of owner/model:Q4_K_M that file alone.
    """
    if (on_hub := hub_models.named(name)) is not None:
        freed, paths = hub_models.remove(on_hub, yes)
        name = str(on_hub)
    else:
        spec = _known(name)
        name, paths = spec.name, {ModelCache(cache_dir).directory(spec)}
        if not yes:
            click.confirm(f"Delete {name} ({format_bytes(spec.size)})?", abort=True, err=True)
        freed = remove_model(name, cache_dir)
    freed += _remove_packed(
        [packed for packed in _packed(cache_dir) if paths & {packed.model, *packed.model.parents}]
    )
    click.echo(f"{name} is deleted, {format_bytes(freed)} freed.")


@command.command("packed")
@click.option("--clear", is_flag=True, help="Delete all of them; the next start of a model packs it anew.")
@_cache_dir
@_as_json
def packed_weights(clear: bool, cache_dir: Path | None, as_json: bool) -> None:
    """Show packed weights, which make a model's next start fast."""
    found = _packed(cache_dir)
    if clear:
        freed = _remove_packed(found)
        click.echo(f"{len(found)} files are deleted, {format_bytes(freed)} freed.")
        return
    if as_json:
        print_json([{**asdict(each), "path": str(each.path), "model": str(each.model)} for each in found])
        return
    rows = [
        [
            str(each.model),
            each.weight_format,
            format_bytes(each.size),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used)),
        ]
        for each in found
    ]
    print_table(["Model", "Weights", "Size", "Used"], rows)
    size = format_bytes(sum(each.size for each in found))
    click.echo(f"\n{size} in {packed_directory(cache_dir)}; --clear deletes them.")


def _packed(cache_dir: Path | None) -> list[PackedModel]:
    return PackedCache(packed_directory(cache_dir)).models()


def _remove_packed(packed: list[PackedModel]) -> int:
    try:
        for each in packed:
            each.path.unlink(missing_ok=True)
    except OSError as error:
        raise ServingError(f"{error.filename} cannot be deleted: {error.strerror}.") from error
    return sum(each.size for each in packed)


def _known(name: str) -> ModelSpec:
    spec = find_model(name)
    if spec is None:
        names = ", ".join(spec.name for spec in load_catalog())
        raise ModelNotFound(name, f"Known names: {names}. On the Hugging Face hub names are owner/model.")
    return spec


def _facts(spec: ModelSpec, path: Path | None) -> dict[str, Any]:
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "kind": spec.kind,
        "description": spec.description,
        "licence": spec.licence,
        "context": spec.context,
        "size": spec.size,
        "download_size": spec.source.size,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in spec.files],
        "source": spec.source.requirement,
        "installed": path is not None,
        "path": str(path) if path else None,
    }
