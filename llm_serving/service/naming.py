"""From a model's name in the settings to its files, and to what clients call it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from llm_serving.architectures import ENCODER_FAMILIES, FAMILIES
from llm_serving.backends import transformers_backend
from llm_serving.checkpoints import read_family
from llm_serving.config import Settings, SettingsError, env_name, flag_name
from llm_serving.errors import CheckpointError
from llm_serving.models import OnProgress, Progress, find_model, parse_hub_name, resolve_model

LATEST = ":latest"  # as Ollama's clients say

logger = logging.getLogger(__name__)


def public_name(model_name: str) -> str:
    """How a model is called towards clients: the catalogue's name, the hub's without its address, or a file's
    without folder and ending."""
    spec = find_model(model_name)
    if spec is not None:
        return spec.name
    path, on_hub = Path(model_name), parse_hub_name(model_name)
    if path.suffix.lower() == ".gguf" and (on_hub is None or path.exists()):
        return path.stem
    if path.is_dir() or model_name.startswith(("/", ".", "~")):
        return path.resolve().name
    return str(on_hub or model_name)


def find_path(name: str, settings: Settings, on_progress: OnProgress) -> Path:
    """The model's file or directory, fetched if need be.

    Raises: ModelNotFound, DownloadError; CheckpointError, before weights are fetched, for a directory on the
    hub that no engine here runs.
    """

    def check(directory: Path) -> None:
        if settings.engine == "native" or not transformers_backend.is_installed():
            _require_native_family(name, directory)

    return resolve_model(
        name,
        cache_dir=settings.cache_dir,
        on_progress=on_progress,
        with_projector=settings.max_images > 0 and settings.mmproj is None,
        on_config=check,
    )


def _require_native_family(name: str, directory: Path) -> None:
    family = read_family(directory)
    if family not in FAMILIES and family not in ENCODER_FAMILIES:
        raise CheckpointError(
            f"The native engine does not run the family '{family}' of '{name}'. The transformers engine may: "
            f"pip install 'llm-serving[{transformers_backend.EXTRA}]'."
        )


class ProgressLog:
    """Progress for those who only see the log: a line a stage, and one every quarter of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: tuple[str, int] | None = None

    def __call__(self, progress: Progress) -> None:
        quarter = 4 * progress.done_bytes // max(1, progress.total_bytes)
        if self._last != (progress.stage, quarter):
            self._last = (progress.stage, quarter)
            percent = 100 * progress.done_bytes // max(1, progress.total_bytes)
            logger.info("model %s: %s, %d %%", self._name, progress.stage, percent)


def spellings(name: str) -> list[str]:
    """A name as it was asked for, and without what clients of others add: a tag, or the hub's address."""
    said = name.strip()
    on_hub = parse_hub_name(said)
    keys = [said.casefold(), *([str(on_hub).casefold()] if on_hub else [])]
    return [*keys, *(key.removesuffix(LATEST) for key in keys)]


def check_further(settings: Settings, taken: Collection[str]) -> None:
    """Raises: SettingsError for further models with a name of another; `taken` are those of the others."""
    what = f"{flag_name('further_models')} ({env_name('further_models')})"
    if settings.further_models and settings.engine == "vllm":
        raise SettingsError(f"{what}: vLLM takes the device's memory for one model. Use another engine.")
    names = [public_name(name).casefold() for name in settings.further_models]
    for i, name in enumerate(names):
        if name in names[:i] or name in taken:
            raise SettingsError(f"{what}: '{name}' names two of the models. Leave one out.")
