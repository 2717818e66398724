"""What the hub's cache on this machine holds that could be served."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_serving.errors import DownloadError, ModelNotFound
from llm_serving.models.hub_files import gguf_models, is_directory
from llm_serving.models.hub_name import HubName


@dataclass(frozen=True, slots=True)
class HubModel:
    """A directory of safetensors, or the GGUF file (of several the first); `size` is in bytes."""

    name: str
    path: Path
    size: int
    files: tuple[Path, ...]  # of the model alone, as its revision calls them


def list_hub_models() -> list[HubModel]:
    """By name; of a model in several revisions the newest."""
    found: dict[str, HubModel] = {}
    for repository in _repositories():
        for revision in sorted(repository.revisions, key=lambda each: each.last_modified, reverse=True):
            for model in _models_of(repository.repo_id, revision):
                found.setdefault(model.name, model)
    return [found[name] for name in sorted(found, key=str.casefold)]


def find_hub_models(name: HubName) -> list[HubModel]:
    """Those of a repository, or the one that the name means. Raises: ModelNotFound if none is here."""
    from huggingface_hub import constants

    models = [model for model in list_hub_models() if model.name.split(":")[0] == name.repository]
    which = name.which.casefold()
    meant = [model for model in models if not which or which in _words_for(model)]
    if not meant:
        raise ModelNotFound(str(name), f"It is not in {constants.HF_HUB_CACHE}.")
    return meant


def find_snapshot(name: HubName) -> Path | None:
    """The folder of the name's revision, whatever of it is here."""
    from huggingface_hub import constants

    wanted = name.revision or constants.DEFAULT_REVISION
    for repository in _repositories():
        for revision in repository.revisions if repository.repo_id == name.repository else ():
            if wanted in (*revision.refs, revision.commit_hash):
                return Path(revision.snapshot_path)
    return None


def remove_hub_models(name: HubName) -> int:
    """Delete a repository's files, or those of the one model that the name means; bytes freed.

    Raises: ModelNotFound when nothing of it is here, DownloadError when the cache cannot be written.
    """
    from huggingface_hub import constants, scan_cache_dir

    models = find_hub_models(name)
    freed = 0
    try:
        if not name.which:
            cache = scan_cache_dir(constants.HF_HUB_CACHE)
            (own,) = (
                each for each in cache.repos if (each.repo_type, each.repo_id) == ("model", name.repository)
            )
            cache.delete_revisions(*(revision.commit_hash for revision in own.revisions)).execute()
            return own.size_on_disk
        for file in {file for model in models for file in model.files}:
            blob = file.resolve()
            freed += blob.stat().st_size if blob.exists() else 0
            file.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(f"{error.filename} cannot be deleted: {error.strerror}.") from error
    return freed


def _models_of(repository: str, revision: Any) -> Iterable[HubModel]:
    sizes = {
        str(Path(file.file_path).relative_to(revision.snapshot_path)): file.size_on_disk
        for file in revision.files
    }
    if is_directory(sizes):
        files = tuple(revision.snapshot_path / file for file in sizes)
        yield HubModel(repository, Path(revision.snapshot_path), revision.size_on_disk, files)
    for label, names in gguf_models(sizes).items():
        files = tuple(Path(revision.snapshot_path) / file for file in names)
        yield HubModel(f"{repository}:{label}", files[0], sum(sizes[file] for file in names), files)


def _words_for(model: HubModel) -> set[str]:
    label = model.name.partition(":")[2]
    return {word.casefold() for word in (label, model.files[0].name) if word}


def _repositories() -> list[Any]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except (CacheNotFound, ValueError):  # the latter for a file in its place
        return []
    return [repository for repository in cache.repos if repository.repo_type == "model"]
