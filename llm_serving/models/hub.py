"""Models of the Hugging Face hub, by name: from its cache on this machine, or over the network."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable
from pathlib import Path

from llm_serving.errors import DownloadError, ModelNotFound
from llm_serving.models.hub_cache import find_snapshot
from llm_serving.models.hub_download import download
from llm_serving.models.hub_files import (
    choose_adapter,
    choose_model,
    choose_projector,
    gguf_models,
    is_adapter,
    is_directory,
)
from llm_serving.models.hub_name import HubName
from llm_serving.models.spec import OnProgress

logger = logging.getLogger(__name__)

# Weights as safetensors only: pickles can run code.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]

_PATIENCE_S = 10.0  # for a list of files; what is here is served without it

OnConfig = Callable[[Path], None]


def fetch(
    name: HubName,
    on_progress: OnProgress,
    *,
    offline: bool = False,
    with_projector: bool = True,
    on_config: OnConfig | None = None,
) -> Path:
    """The directory of a model in safetensors, or the GGUF file (of several parts the first). Blocks.

    A repository with both is the directory, unless the name says which file. `with_projector` fetches what
    GGUF models see with, too. `on_config` is given a directory's config.json, before the weights are fetched:
    it is for models that are to run, and a low-rank adapter, which does not run alone, is none then.
    Without a network, or `offline`, what is on this machine is taken.

    Raises: ModelNotFound; DownloadError when it is not on this machine and cannot be fetched; and what
    `on_config` raises.
    """
    files, here = _files(name, offline)

    def get(wanted: list[str]) -> Path:
        return _download(name, wanted, on_progress) if here is None else here

    if not name.which and (is_directory(files) or not gguf_models(files)):
        if is_adapter(files) and not is_directory(files):
            if on_config is not None:
                raise ModelNotFound(
                    str(name), f"It is a low-rank adapter. Serve the model it is for, with --lora NAME={name}"
                )
            return get(choose_adapter(name, files))
        if on_config is not None:
            on_config(get(["config.json"]))
        if here is not None and not is_directory(files):
            raise _not_here(name, "its weights are missing")
        return get(_WANTED)
    try:
        model = choose_model(name, files)
    except ModelNotFound as error:
        if here is None:
            raise
        raise _not_here(name, f"here are only {', '.join(gguf_models(files)) or 'other files'}") from error
    wanted = [*model, *(choose_projector(files) if with_projector else [])]
    return get([glob.escape(file) for file in wanted]) / model[0]


def fetch_adapter(name: HubName, on_progress: OnProgress, *, offline: bool = False) -> Path:
    """The directory of a low-rank adapter, under the same rules. Blocks.

    Raises: ModelNotFound for a repository that is none, too; DownloadError.
    """
    files, here = _files(name, offline)
    try:
        wanted = choose_adapter(name, files)
    except ModelNotFound as error:
        if here is None or name.which:
            raise
        raise _not_here(name, "its files are missing") from error
    return _download(name, wanted, on_progress) if here is None else here


def _files(name: HubName, offline: bool) -> tuple[list[str], Path | None]:
    """Names of files in the repository, or of those on this machine, and then where they are."""
    problem = "fetching is switched off"
    if not offline:
        import huggingface_hub

        try:
            info = huggingface_hub.HfApi().model_info(
                name.repository, revision=name.revision, timeout=_PATIENCE_S
            )
            return [file.rfilename for file in info.siblings or []], None
        except Exception as error:  # the network can fail with any error there is
            _raise_if_unknown(name, error)
            problem = type(error).__name__
    here = find_snapshot(name)
    if here is None:
        raise _not_here(name, problem)
    if not offline:
        logger.warning("model %s: the hub does not answer (%s); taken from its cache", name, problem)
    return sorted(str(file.relative_to(here)) for file in here.rglob("*") if file.is_file()), here


def _download(name: HubName, wanted: list[str], on_progress: OnProgress) -> Path:
    try:
        return download(name, wanted, on_progress)
    except Exception as error:  # as above
        _raise_if_unknown(name, error)
        raise _not_here(name, type(error).__name__) from error


def _raise_if_unknown(name: HubName, error: Exception) -> None:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, HFValidationError):
        raise ModelNotFound(str(name), "It is neither a path nor a name of the form owner/model.") from error
    if isinstance(error, GatedRepoError):
        raise ModelNotFound(
            str(name),
            f"It is there for those who accept its terms: do so at https://huggingface.co/{name.repository}, "
            "and set HF_TOKEN.",
        ) from error
    if isinstance(error, RepositoryNotFoundError):
        raise ModelNotFound(
            str(name), "The Hugging Face hub does not know it, or it is private and HF_TOKEN is not set."
        ) from error
    if isinstance(error, RevisionNotFoundError):
        raise ModelNotFound(str(name), f"'{name.repository}' has no revision '{name.revision}'.") from error


def _not_here(name: HubName, problem: str) -> DownloadError:
    return DownloadError(
        f"The model '{name}' is not on this machine and could not be fetched from the Hugging Face hub "
        f"({problem}). Give the path of a model, or fetch it where there is a network: "
        f"llm-serving models pull {name}"
    )
