"""Low-rank adapters of the main chat model, each a model of its own towards clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_serving.config import Settings


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """Who asks for `name` gets the main model with this adapter."""

    name: str
    directory: Path
    index: int  # among those of the engine


def named_adapters(settings: Settings) -> tuple[NamedAdapter, ...]:
    """As `--lora` has them, in the order of `EngineOptions.adapters`."""
    pairs = [item.partition("=") for item in settings.lora]
    return tuple(
        NamedAdapter(name, Path(directory).expanduser(), index)
        for index, (name, _, directory) in enumerate(pairs)
    )
