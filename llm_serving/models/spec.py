"""What the catalogue says about a model, and what a fetch says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a wheel of the package index. `sha256` and `size` are the wheel's."""

    package: str
    version: str
    member: str
    sha256: str
    size: int

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One catalogue entry. `sha256` and `size` (bytes) are the model file's; `context` is in tokens."""

    name: str
    aliases: tuple[str, ...]
    kind: Literal["chat"]
    source: WheelSource
    sha256: str
    size: int
    licence: str
    context: int
    description: str

    @property
    def filename(self) -> str:
        return self.source.member.rpartition("/")[2]

    def answers_to(self, name: str) -> bool:
        """Names and aliases are compared without case."""
        return name.casefold() in (known.casefold() for known in (self.name, *self.aliases))


Stage = Literal["waiting", "downloading", "verifying", "unpacking"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is. `waiting`: another process is fetching the same model."""

    done_bytes: int
    total_bytes: int
    stage: Stage


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model file that the cache holds, whole and verified."""

    spec: ModelSpec
    path: Path
