"""Typed reading of a Hugging Face `config.json`, which is what `metadata` of such a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.rope import (
    are_factors,
    llama3_factors,
    longrope_magnitude,
    yarn_factors,
    yarn_magnitude,
)

# Of models that see: Idefics 3's, Gemma 3's, and Gemma 3's as it was written first.
_TEXTS = ("model.text_model.", "model.language_model.", "language_model.model.")
_TRAINED_FOR = "original_max_position_embeddings"


def part(checkpoint: Checkpoint, key: str) -> Mapping[str, Any]:
    """The settings of a part of the model. Raises: CheckpointError unless they are an object."""
    found = checkpoint.metadata.get(key)
    if not isinstance(found, dict):
        raise CheckpointError(f"'{key}' in the config.json of '{checkpoint.path}' is no object.")
    return found


def renamed(checkpoint: Checkpoint, keys: Mapping[str, str], **defaults: object) -> Checkpoint:
    """The same with keys as most families call them; `defaults` stand where a file says nothing, or null."""
    given = {keys.get(key, key): value for key, value in checkpoint.metadata.items() if value is not None}
    return replace(checkpoint, metadata={**defaults, **given})


def positive(checkpoint: Checkpoint, *keys: str, default: int | None = None) -> int:
    """The first of `keys` that is there. Raises: CheckpointError unless it is a positive integer."""
    value = next((checkpoint.metadata[key] for key in keys if key in checkpoint.metadata), default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise CheckpointError(
            f"'{keys[0]}' in the config.json of '{checkpoint.path}' is {value!r}; "
            "a positive integer is needed."
        )
    return value


def num_layers(checkpoint: Checkpoint, *keys: str) -> int:
    """Raises: CheckpointError for more than there can be: all are planned before any is looked for."""
    count = positive(checkpoint, *keys)
    if count > len(checkpoint.tensors):
        raise CheckpointError(
            f"'{keys[0]}' in the config.json of '{checkpoint.path}' is {count}; "
            f"there are {len(checkpoint.tensors)} tensors."
        )
    return count


def number(checkpoint: Checkpoint, *keys: str, default: float) -> float:
    """The first of `keys` that is there, as a float. Raises: CheckpointError unless it is a number > 0."""
    value = next((checkpoint.metadata[key] for key in keys if key in checkpoint.metadata), default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
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
    if isinstance(parameters, dict) and parameters.get("rope_theta") is not None:
        if parameters.get("rope_type", "default") != "default":
            raise CheckpointError(
                f"Rotary scaling {parameters['rope_type']!r} in '{checkpoint.path}' is not supported."
            )
        return number(replace(checkpoint, metadata=parameters), "rope_theta", default=default)
    return number(checkpoint, *keys, default=default)


def rope(
    checkpoint: Checkpoint, head_dim: int, theta: float, kind: str | None = None, share: float = 1.0
) -> ops.Rope:
    """Rotary positions of a decoder, of layers of this `kind` where files tell kinds apart.

    `theta` is the base where the file names none, `share` how much of a head rotates where it does not say.

    Raises: CheckpointError for a scaling other than linear, llama3, yarn and longrope, or impossible numbers.
    """
    config = checkpoint.metadata
    given: Any = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if kind is not None and isinstance(given, dict) and kind in given:
        given = given[kind]
    if not isinstance(given, dict):
        raise CheckpointError(
            f"The rotary parameters in the config.json of '{checkpoint.path}' are no object."
        )

    def value(key: str, default: Any = None) -> float:
        found = given.get(key, config.get(key, default))
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < float("inf"):
            raise CheckpointError(
                f"'{key}' in the config.json of '{checkpoint.path}' is {found!r}; "
                "a positive number is needed."
            )
        return float(found)

    base, share = value("rope_theta", theta), value("partial_rotary_factor", share)
    rotated = int(head_dim * share)
    if rotated % 2 or not 0 < rotated <= head_dim:
        raise CheckpointError(f"Rotating {rotated} of {head_dim} dimensions is not possible.")
    scaling = given.get("rope_type", given.get("type", "default"))
    if scaling in ("default", "linear", "mrope"):  # which for texts is the default
        return ops.Rope(base, rotated, value("factor") if scaling == "linear" else 1.0)
    if scaling == "yarn":
        return _yarn(checkpoint, given, ops.Rope(base, rotated), value)
    if scaling in ("longrope", "su"):  # as it was called first
        return _longrope(checkpoint, given, ops.Rope(base, rotated), value)
    if scaling != "llama3":
        raise CheckpointError(f"Rotary scaling {scaling!r} in '{checkpoint.path}' is not supported.")
    low, high = value("low_freq_factor"), value("high_freq_factor")
    if not low <= high:  # Llama 4's are equal: no frequency is between
        raise CheckpointError(
            f"The rotary factors in '{checkpoint.path}' are {low:g} and {high:g}: out of order."
        )
    length = value(_TRAINED_FOR)
    return ops.Rope(base, rotated, factors=llama3_factors(base, rotated, value("factor"), low, high, length))


def _yarn(
    checkpoint: Checkpoint, given: dict[str, Any], plain: ops.Rope, value: Callable[..., float]
) -> ops.Rope:
    """Raises: CheckpointError for the variants of other families, or numbers that are not possible."""
    truncate: Any = given.get("truncate", True)
    if not isinstance(truncate, bool):
        raise CheckpointError(
            f"'truncate' in the config.json of '{checkpoint.path}' is {truncate!r}; true or false is needed."
        )
    if plain.theta <= 1:
        raise CheckpointError(f"The rotary base of '{checkpoint.path}' is {plain.theta:g}; yarn needs more.")

    def optional(key: str, default: float) -> float:
        return value(key) if given.get(key) is not None else default

    factor = value("factor")
    own, all_dims = optional("mscale", 0.0), optional("mscale_all_dim", 0.0)
    magnitude = yarn_magnitude(factor)
    if own and all_dims:
        magnitude = yarn_magnitude(factor, own) / yarn_magnitude(factor, all_dims)
    length = value(_TRAINED_FOR, checkpoint.metadata.get("max_position_embeddings"))
    fast, slow = optional("beta_fast", 32.0), optional("beta_slow", 1.0)
    return replace(
        plain,
        factors=yarn_factors(plain.theta, plain.rotated, factor, length, fast, slow, truncate),
        magnitude=optional("attention_factor", magnitude),
    )


def _longrope(
    checkpoint: Checkpoint, given: dict[str, Any], plain: ops.Rope, value: Callable[..., float]
) -> ops.Rope:
    """Raises: CheckpointError unless there are factors for each frequency."""
    length = positive(replace(checkpoint, metadata={**checkpoint.metadata, **given}), _TRAINED_FOR)
    context = positive(checkpoint, "max_position_embeddings", default=length)
    factor = value("factor") if given.get("factor") is not None else context / length
    magnitude = longrope_magnitude(factor, length)
    if given.get("attention_factor") is not None:
        magnitude = value("attention_factor")

    def factors(key: str) -> tuple[float, ...]:
        found: Any = given.get(key)
        if not are_factors(found, plain.rotated):
            raise CheckpointError(
                f"'{key}' in the config.json of '{checkpoint.path}' is no list of "
                f"{plain.rotated // 2} numbers to divide frequencies by."
            )
        return tuple(map(float, found))

    return replace(
        plain,
        factors=factors("long_factor"),
        magnitude=magnitude,
        near_factors=factors("short_factor"),
        near=length,
    )


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
        if prefix in ("", *_TEXTS) or (prefix.endswith(".") and prefix.count(".") == 1):
            return prefix
    raise CheckpointError(f"The model '{checkpoint.path}' has no tensor '{tensor}'.")


def before(checkpoint: Checkpoint, name: str) -> str:
    """What stands before `name`, which files have at different places. Raises: CheckpointError."""
    found = [tensor for tensor in checkpoint.tensors if tensor.endswith(name)]
    if len(found) != 1:
        raise CheckpointError(f"The model '{checkpoint.path}' has {len(found)} tensors '…{name}'.")
    return found[0][: -len(name)]
