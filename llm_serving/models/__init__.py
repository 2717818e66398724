"""Model names: what is known, what is on this machine, and how to get it here.

Pure of any engine: a name goes in, a path comes out.
"""

from __future__ import annotations

from llm_serving.models.cache import ModelCache, packed_directory
from llm_serving.models.catalog import find_model, load_catalog
from llm_serving.models.hub_cache import (
    HubModel,
    find_hub_models,
    list_hub_models,
    remove_hub_models,
)
from llm_serving.models.hub_name import HubName, parse_hub_name
from llm_serving.models.resolve import (
    existing_path,
    list_installed,
    remove_model,
    resolve_adapter,
    resolve_model,
)
from llm_serving.models.spec import (
    InstalledModel,
    ModelFile,
    ModelKind,
    ModelSpec,
    OnProgress,
    Piece,
    PiecesSource,
    Progress,
    WheelSource,
)

__all__ = [
    "HubName",
    "InstalledModel",
    "ModelCache",
    "ModelFile",
    "ModelKind",
    "ModelSpec",
    "OnProgress",
    "Piece",
    "PiecesSource",
    "Progress",
    "WheelSource",
    "existing_path",
    "find_model",
    "list_installed",
    "load_catalog",
    "packed_directory",
    "parse_hub_name",
    "remove_model",
    "resolve_adapter",
    "resolve_model",
    "HubModel",
    "find_hub_models",
    "list_hub_models",
    "remove_hub_models",
]
