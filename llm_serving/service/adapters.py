"""Low-rank adapters of the main chat model, each a model of its own towards clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_serving.config import Settings
from llm_serving.models import OnProgress, resolve_adapter
from llm_serving.service.naming import ProgressLog, public_name


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """Who asks for `name` gets the main model with this adapter."""

    name: str
    source: str  # a directory, or a name on the Hugging Face hub
    index: int  # among those of the engine

    @property
    def root(self) -> str:
        """What clients are told of `source`: the hub's name, or the directory's without folders."""
        return public_name(self.source)


def named_adapters(settings: Settings) -> tuple[NamedAdapter, ...]:
    """As `--lora` has them, in the order of `EngineOptions.adapters`."""
    pairs = [item.partition("=") for item in settings.lora]
    return tuple(NamedAdapter(name, source, index) for index, (name, _, source) in enumerate(pairs))


def find_adapters(settings: Settings, on_progress: OnProgress | None = None) -> tuple[Path, ...]:
    """Their directories, fetched if need be. Raises: as `resolve_adapter`."""
    return tuple(
        resolve_adapter(adapter.source, on_progress or ProgressLog(adapter.name))
        for adapter in named_adapters(settings)
    )
