"""Which layers see everything, where others see the last tokens only (a sliding window)."""

from __future__ import annotations

import numpy as np

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError

LOCAL, GLOBAL = "sliding_attention", "full_attention"  # kinds of layers, as config.json has them
_GGUF_PATTERN = "attention.sliding_window_pattern"


def every(period: int, layers: int) -> frozenset[int]:
    """The last of each `period` layers."""
    return frozenset(range(period - 1, layers, period))


def global_layers(checkpoint: Checkpoint, layers: int, period: int) -> frozenset[int]:
    """Those that see everything; every `period`-th where a file says nothing.

    Raises: CheckpointError for a list that is not one of layers.
    """
    if checkpoint.format == "gguf":
        return _of_gguf(checkpoint, layers, period)
    kinds = checkpoint.metadata.get("layer_types")
    if kinds is None:  # older files give the period only
        keys = ("sliding_window_pattern", "_sliding_window_pattern")
        return every(config_json.positive(checkpoint, *keys, default=period), layers)
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or not all(kind in (LOCAL, GLOBAL) for kind in kinds)
    ):
        raise CheckpointError(
            f"'layer_types' in the config.json of '{checkpoint.path}' is no list of {layers} times "
            f"'{LOCAL}' or '{GLOBAL}'."
        )
    return frozenset(i for i, kind in enumerate(kinds) if kind == GLOBAL)


def _of_gguf(checkpoint: Checkpoint, layers: int, period: int) -> frozenset[int]:
    """A pattern is a period, or says of each layer whether it has a window."""
    pattern = checkpoint.hyper(_GGUF_PATTERN, period)
    if not isinstance(pattern, np.ndarray):
        return every(gguf_keys.positive(checkpoint, _GGUF_PATTERN, period), layers)
    if pattern.dtype != bool or len(pattern) != layers:
        raise gguf_keys.problem(checkpoint, _GGUF_PATTERN, pattern, f"{layers} times yes or no is needed")
    return frozenset(np.flatnonzero(~pattern).tolist())


def layers_of(
    checkpoint: Checkpoint, key: str, layers: int, wanted: tuple[str, ...], others: tuple[str, ...]
) -> frozenset[int]:
    """Layers that the list under `key` of a config.json calls one of `wanted`, where others are of `others`.

    Raises: CheckpointError for a list that is not one of layers.
    """
    kinds = checkpoint.metadata.get(key)
    if not isinstance(kinds, list) or len(kinds) != layers or any(k not in (*wanted, *others) for k in kinds):
        names = ", ".join(f"'{name}'" for name in (*others, *wanted))
        raise CheckpointError(
            f"'{key}' in the config.json of '{checkpoint.path}' is no list of {layers} times one of {names}."
        )
    return frozenset(i for i, kind in enumerate(kinds) if kind in wanted)


def gguf_key_heads(checkpoint: Checkpoint) -> np.ndarray:
    """Key heads of each layer, 0 where it is no attention. Raises: CheckpointError for other differences."""
    key = "attention.head_count_kv"
    heads = checkpoint.hyper(key)
    layers = gguf_keys.num_layers(checkpoint)
    fits = isinstance(heads, np.ndarray) and heads.dtype.kind in "iu" and heads.shape == (layers,)
    if not fits or len({*heads.tolist()} - {0}) != 1 or heads.min() < 0:
        raise gguf_keys.problem(checkpoint, key, heads, f"{layers} times 0 or one number is needed")
    return np.asarray(heads)
