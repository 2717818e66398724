"""What layers of Gemma 3n and 4 are like: their sizes, and whose keys and values the last ones read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm_serving.architectures import gguf_keys
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError

_MOST_CAP = 1e6


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer. Its keys and values are its own, or those of an earlier one of its kind."""

    is_local: bool
    head_dim: int
    kv_heads: int
    ffn: int
    reads: int  # the layer whose keys and values it reads


def of_kind(checkpoint: Checkpoint, kind: str) -> Checkpoint:
    """The same with the rotary parameters of this kind of layers alone."""
    kinds: Any = checkpoint.metadata.get("rope_parameters") or {}
    own = kinds.get(kind, {}) if isinstance(kinds, dict) else kinds
    return replace(checkpoint, metadata={"rope_parameters": own})


def of_each_layer(checkpoint: Checkpoint, key: str, layers: int) -> list[int]:
    """A number for each layer; files have one for all, or a list. Raises: CheckpointError."""
    values = checkpoint.hyper(key)
    if not isinstance(values, np.ndarray):
        return [gguf_keys.positive(checkpoint, key)] * layers
    if (
        values.dtype.kind not in "iu"
        or len(values) != layers
        or not ((values > 0) & (values < 1 << 31)).all()
    ):
        raise gguf_keys.problem(checkpoint, key, values, f"{layers} positive integers are needed")
    return [int(value) for value in values]


def num_shared(checkpoint: Checkpoint, key: str, value: object, layers: int) -> int:
    """Raises: CheckpointError unless it is a number of layers, fewer than all."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < layers:
        raise CheckpointError(
            f"'{key}' of '{checkpoint.path}' is {value!r}; a number of layers below {layers} is needed."
        )
    return value


def logit_cap(checkpoint: Checkpoint, cap: object) -> float:
    """Raises: CheckpointError for a number that caps nothing."""
    is_number = isinstance(cap, (int, float)) and not isinstance(cap, bool)
    if not is_number or not 1 / _MOST_CAP <= float(str(cap)) <= _MOST_CAP:
        raise CheckpointError(
            f"'final_logit_softcapping' of '{checkpoint.path}' is {cap!r}: no model has such a cap."
        )
    return float(str(cap))


def sharing_layers(
    checkpoint: Checkpoint,
    heads: list[tuple[int, int]],
    ffn: list[int],
    is_global: frozenset[int],
    shared: int,
) -> tuple[LayerShape, ...]:
    """Layers with these sizes and numbers of heads for keys, and these widths.

    Who shares reads the last one of its kind that does not. Raises: CheckpointError without one.
    """
    keeping = len(heads) - shared
    kinds = [i not in is_global for i in range(len(heads))]
    layers = []
    for i, (head_dim, kv_heads) in enumerate(heads):
        reads = i if i < keeping else max((k for k in range(keeping) if kinds[k] == kinds[i]), default=-1)
        if reads < 0 or heads[reads] != heads[i]:
            raise CheckpointError(
                f"Layer {i} of '{checkpoint.path}' has no layer whose keys and values it can read."
            )
        layers.append(LayerShape(kinds[i], head_dim, kv_heads, ffn[i], reads))
    return tuple(layers)
