"""The catalogue: `catalog.toml` as data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from llm_serving.models.spec import ModelFile, ModelSpec, Piece, PiecesSource, WheelSource

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


@lru_cache(maxsize=1)
def load_catalog() -> tuple[ModelSpec, ...]:
    """All known models, in the file's order; read once."""
    text = Path(__file__).with_name("catalog.toml").read_text("utf-8")
    return tuple(_spec(entry) for entry in tomllib.loads(text)["model"])


def find_model(name: str, catalog: Sequence[ModelSpec] | None = None) -> ModelSpec | None:
    """The entry of this name or alias, in any case; None if there is none."""
    known = load_catalog() if catalog is None else catalog
    return next((spec for spec in known if spec.answers_to(name.strip())), None)


def _spec(entry: dict[str, Any]) -> ModelSpec:
    fields = {
        **entry,
        "aliases": tuple(entry["aliases"]),
        "source": _source(entry["source"]),
        "files": tuple(ModelFile(**file) for file in entry["files"]),
    }
    return ModelSpec(**fields)


def _source(entry: dict[str, Any]) -> WheelSource | PiecesSource:
    if "pieces" not in entry:
        return WheelSource(**entry)
    return PiecesSource(**{**entry, "pieces": tuple(Piece(**piece) for piece in entry["pieces"])})
