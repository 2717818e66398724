"""Typed reading of a Hugging Face `config.json`, which is what `metadata` of such a checkpoint holds."""

from __future__ import annotations

from typing import Any

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError


def positive(checkpoint: Checkpoint, *keys: str, default: int | None = None) -> int:
    """The first of `keys` that is there. Raises: CheckpointError unless it is a positive integer."""
    value = next((checkpoint.metadata[key] for key in keys if key in checkpoint.metadata), default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise CheckpointError(
            f"'{keys[0]}' in the config.json of '{checkpoint.path}' is {value!r}; "
            "a positive integer is needed."
        )
    return value


def number(checkpoint: Checkpoint, *keys: str, default: float) -> float:
    """The first of `keys` that is there, as a float. Raises: CheckpointError unless it is a number > 0."""
    value = next((checkpoint.metadata[key] for key in keys if key in checkpoint.metadata), default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise CheckpointError(
            f"'{keys[0]}' in the config.json of '{checkpoint.path}' is {value!r}; "
            "a positive number is needed."
        )
    return float(value)


def rope_theta(checkpoint: Checkpoint, *keys: str, default: float, kind: str | None = None) -> float:
    """The rotary base: newer files have it in `rope_parameters`, there by layer kind where kinds differ."""
    parameters: Any = checkpoint.metadata.get("rope_parameters")
    if isinstance(parameters, dict) and kind is not None:
        parameters = parameters.get(kind)
    if isinstance(parameters, dict) and isinstance(parameters.get("rope_theta"), (int, float)):
        if parameters.get("rope_type", "default") != "default":
            raise CheckpointError(
                f"Rotary scaling {parameters['rope_type']!r} in '{checkpoint.path}' is not supported."
            )
        return float(parameters["rope_theta"])
    return number(checkpoint, *keys, default=default)


def require(checkpoint: Checkpoint, key: str, allowed: tuple[object, ...], default: object) -> None:
    """Raises: CheckpointError when the config asks for something that is not computed here."""
    value = checkpoint.metadata.get(key, default)
    if value not in allowed:
        names = ", ".join(str(choice) for choice in allowed)
        raise CheckpointError(
            f"'{key}' in the config.json of '{checkpoint.path}' is {value!r}; supported: {names}."
        )


def prefix_of(checkpoint: Checkpoint, tensor: str) -> str:
    """What stands before `tensor` in this file: saved with a task's head, names carry the model's.

    Raises: CheckpointError when no such tensor is there.
    """
    found = sorted((name for name in checkpoint.tensors if name.endswith(tensor)), key=len)
    for name in found:
        prefix = name[: -len(tensor)]
        if not prefix or (prefix.endswith(".") and prefix.count(".") == 1):
            return prefix
    raise CheckpointError(f"The model '{checkpoint.path}' has no tensor '{tensor}'.")
