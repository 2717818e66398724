"""What the hub's cache on this machine holds that could be served."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_serving.errors import DownloadError, ModelNotFound
from llm_serving.models.hub_files import gguf_models, is_adapter, is_directory
from llm_serving.models.hub_name import HubName


@dataclass(frozen=True, slots=True)
class HubModel:
    """A directory of safetensors, also of an adapter, or the GGUF file (of several the first).

    `size` is in bytes.
    """

    name: str
    path: Path
    size: int
    files: tuple[Path, ...]  # of the model alone, as its revision calls them


def list_hub_models(of: HubName | None = None) -> list[HubModel]:
    """By name, of one repository or all; of a model in several revisions the newest, unless one is named."""
    found: dict[str, HubModel] = {}
    for repository in _repositories():
        if of is None or of.repository == repository.repo_id:
            for revision in _revisions(repository, of.revision if of else None):
                for model in _models_of(repository.repo_id, revision):
                    found.setdefault(model.name, model)
    return [found[name] for name in sorted(found, key=str.casefold)]


def find_hub_models(name: HubName) -> list[HubModel]:
    """Those of a repository, or the one that the name means. Raises: ModelNotFound if none is here."""
    from huggingface_hub import constants

    which = name.which.casefold()
    meant = [model for model in list_hub_models(name) if not which or which in _words_for(model)]
    if not meant:
        raise ModelNotFound(str(name), f"It is not in {constants.HF_HUB_CACHE}.")
    return meant


def find_snapshot(name: HubName) -> Path | None:
    """The folder of the name's revision, whatever of it is here."""
    from huggingface_hub import constants

    for repository in _repositories():
        if repository.repo_id == name.repository:
            for revision in _revisions(repository, name.revision or constants.DEFAULT_REVISION):
                return Path(revision.snapshot_path)
    return None


def remove_hub_models(name: HubName) -> int:
    """Delete a repository's files, of one revision or all, or those of the one model that the name means.

    Returns the bytes freed.

    Raises: ModelNotFound when nothing of it is here, DownloadError when the cache cannot be written.
    """
    from huggingface_hub import constants, scan_cache_dir

    models = find_hub_models(name)
    freed = 0
    try:
        if not name.which:
            cache = scan_cache_dir(constants.HF_HUB_CACHE)
            own = (
                each for each in cache.repos if (each.repo_type, each.repo_id) == ("model", name.repository)
            )
            revisions = [revision for each in own for revision in _revisions(each, name.revision)]
            deletion = cache.delete_revisions(*(revision.commit_hash for revision in revisions))
            deletion.execute()
            return deletion.expected_freed_size
        for file in {file for model in models for file in model.files}:
            blob = file.resolve()
            freed += blob.stat().st_size if blob.exists() else 0
            file.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(f"{error.filename} cannot be deleted: {error.strerror}.") from error
    return freed


def _revisions(repository: Any, wanted: str | None) -> list[Any]:
    """The newest first; all, or those of a branch, tag or commit."""
    found = sorted(repository.revisions, key=lambda each: each.last_modified, reverse=True)
    return [each for each in found if wanted is None or wanted in (*each.refs, each.commit_hash)]


def _models_of(repository: str, revision: Any) -> Iterable[HubModel]:
    sizes = {
        str(Path(file.file_path).relative_to(revision.snapshot_path)): file.size_on_disk
        for file in revision.files
    }
    if is_directory(sizes) or is_adapter(sizes):
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
