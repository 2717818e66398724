"""The sizes of a Gemma 3n, from GGUF's keys or a config.json: those that Gemma 4 has, and its own."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from statistics import NormalDist
from typing import Any

import numpy as np

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.gemma import ACTIVATION
from llm_serving.architectures.gemma3 import local_theta
from llm_serving.architectures.gemma3n_names import AltUpNames
from llm_serving.architectures.gemma4_shape import Gemma4Shape, checked
from llm_serving.architectures.gemma_layers import logit_cap, num_shared, of_each_layer, sharing_layers
from llm_serving.architectures.layer_kinds import GLOBAL, global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.altup import MOST_STREAMS

_GLOBAL_THETA = 1000000.0
_GLOBAL_EVERY = 5  # layers, where a file does not say
_SPARSE_LAYERS, _SPARSITY = 10, 0.95  # of models with more layers, where a file does not say
_ACTIVE = (0,)  # streams that layers compute


@dataclass(frozen=True, slots=True)
class Gemma3nShape:
    """`usual` is what Gemma 4 has, too."""

    usual: Gemma4Shape
    streams: int  # rows of a token
    laurel: int  # rank of the learned residual
    cuts: tuple[float | None, ...]  # of each layer: deviations from the mean that a gate must be above
    scales_correction: bool


def read_shape(checkpoint: Checkpoint, names: AltUpNames) -> Gemma3nShape:
    """Raises: CheckpointError when a size is missing, out of range, or not one that the engine runs."""
    is_file = checkpoint.format == "gguf"
    usual = checked(checkpoint, (_of_gguf if is_file else _of_config)(checkpoint))
    layers = len(usual.layers)
    streams = (
        gguf_keys.positive(checkpoint, "altup.num_inputs", 4)
        if is_file
        else config_json.positive(checkpoint, "altup_num_inputs", default=4)
    )
    if not 1 < streams <= MOST_STREAMS:
        raise CheckpointError(
            f"'{checkpoint.path}' has {streams} AltUp inputs ('altup_num_inputs'); "
            f"the engine runs 2 to {MOST_STREAMS}."
        )
    return Gemma3nShape(
        usual=usual,
        streams=streams,
        laurel=_laurel_rank(checkpoint, names),
        cuts=(_cuts_of_gguf if is_file else _cuts_of_config)(checkpoint, layers),
        scales_correction=is_file or bool(checkpoint.metadata.get("altup_correct_scale", True)),
    )


def _laurel_rank(checkpoint: Checkpoint, names: AltUpNames) -> int:
    """That of the matrices, as GGUF files do not say it. Raises: CheckpointError for what is no matrix."""
    tensor = checkpoint.tensor(names.laurel_left.format(i=0))
    if len(tensor.shape) != 2 or not tensor.shape[0]:
        raise CheckpointError(f"Tensor '{tensor.name}' has shape {tensor.shape}; it is no matrix.")
    return tensor.shape[0]


def _of_config(checkpoint: Checkpoint) -> Gemma4Shape:
    config_json.require(checkpoint, ACTIVATION[0], (ACTIVATION[1],), ACTIVATION[1])
    config_json.require(checkpoint, "attention_bias", (None, False), None)
    config_json.require(checkpoint, "altup_active_idx", _ACTIVE, 0)
    layers = config_json.num_layers(checkpoint, "num_hidden_layers")
    config = checkpoint.metadata
    head_dim = config_json.positive(checkpoint, "head_dim", default=256)
    kv_heads = config_json.positive(checkpoint, "num_key_value_heads", default=2)
    shared = num_shared(checkpoint, "num_kv_shared_layers", config.get("num_kv_shared_layers", 15), layers)
    cap = config.get("final_logit_softcapping", 30.0)
    return Gemma4Shape(
        hidden=config_json.positive(checkpoint, "hidden_size"),
        heads=config_json.positive(checkpoint, "num_attention_heads"),
        layers=sharing_layers(
            checkpoint,
            [(head_dim, kv_heads)] * layers,
            _widths(checkpoint, layers),
            global_layers(checkpoint, layers, _GLOBAL_EVERY),
            shared,
        ),
        shared=shared,
        inputs=config_json.positive(checkpoint, "hidden_size_per_layer_input", default=256),
        context=config_json.positive(checkpoint, "max_position_embeddings", default=32768),
        epsilon=config_json.number(checkpoint, "rms_norm_eps", default=1e-6),
        window=config_json.positive(checkpoint, "sliding_window", default=512),
        local_rope=ops.Rope(local_theta(checkpoint), head_dim),
        rope=config_json.rope(checkpoint, head_dim, _GLOBAL_THETA, GLOBAL),
        logit_cap=0.0 if cap is None else logit_cap(checkpoint, cap),
        experts=None,
    )


def _widths(checkpoint: Checkpoint, layers: int) -> list[int]:
    """Of feed-forward parts: one for all, or a list. Raises: CheckpointError."""
    key = "intermediate_size"
    widths: Any = checkpoint.metadata.get(key)
    if not isinstance(widths, list):
        return [config_json.positive(checkpoint, key)] * layers
    if len(widths) != layers or not all(type(width) is int and 0 < width < 1 << 31 for width in widths):
        raise CheckpointError(
            f"'{key}' in the config.json of '{checkpoint.path}' is no list of {layers} positive integers."
        )
    return widths


def _cuts_of_config(checkpoint: Checkpoint, layers: int) -> tuple[float | None, ...]:
    """Raises: CheckpointError for shares that are none."""
    key = "activation_sparsity_pattern"
    shares: Any = checkpoint.metadata.get(key)
    if shares is None:
        return _published_cuts(layers)
    if (
        not isinstance(shares, list)
        or len(shares) != layers
        or not all(isinstance(share, (int, float)) and 0 <= share < 1 for share in shares)
    ):
        raise CheckpointError(
            f"'{key}' in the config.json of '{checkpoint.path}' is no list of {layers} shares, "
            "from 0 to below 1."
        )
    return tuple(NormalDist().inv_cdf(share) if share > 0 else None for share in shares)


def _published_cuts(layers: int) -> tuple[float | None, ...]:
    sparse = _SPARSE_LAYERS if layers > _SPARSE_LAYERS else 0
    return (NormalDist().inv_cdf(_SPARSITY),) * sparse + (None,) * (layers - sparse)


def _of_gguf(checkpoint: Checkpoint) -> Gemma4Shape:
    layers = gguf_keys.num_layers(checkpoint)
    active = checkpoint.hyper("altup.active_idx", 0)
    if active not in _ACTIVE:
        raise gguf_keys.problem(checkpoint, "altup.active_idx", active, "supported: 0")
    head_dim = gguf_keys.positive(checkpoint, "attention.key_length", 256)
    key_heads = of_each_layer(checkpoint, "attention.head_count_kv", layers)
    key = "attention.shared_kv_layers"
    shared = num_shared(checkpoint, key, checkpoint.hyper(key, 0), layers)
    cap = gguf_keys.number(checkpoint, "final_logit_softcapping", 30.0)
    return Gemma4Shape(
        hidden=gguf_keys.positive(checkpoint, "embedding_length"),
        heads=gguf_keys.positive(checkpoint, "attention.head_count"),
        layers=sharing_layers(
            checkpoint,
            [(head_dim, heads) for heads in key_heads],
            of_each_layer(checkpoint, "feed_forward_length", layers),
            global_layers(checkpoint, layers, _GLOBAL_EVERY),
            shared,
        ),
        shared=shared,
        inputs=gguf_keys.positive(checkpoint, "embedding_length_per_layer_input"),
        context=gguf_keys.positive(checkpoint, "context_length", 32768),
        epsilon=gguf_keys.number(checkpoint, "attention.layer_norm_rms_epsilon", 1e-6),
        window=gguf_keys.positive(checkpoint, "attention.sliding_window"),
        local_rope=ops.Rope(local_theta(checkpoint), head_dim),
        rope=gguf_keys.rope(checkpoint, head_dim, _GLOBAL_THETA),
        logit_cap=logit_cap(checkpoint, cap),
        experts=None,
    )


def _cuts_of_gguf(checkpoint: Checkpoint, layers: int) -> tuple[float | None, ...]:
    """Files have deviations, minus infinity where nothing is cut. Raises: CheckpointError."""
    key = "activation_sparsity_scale"
    cuts = checkpoint.hyper(key)
    if cuts is None:
        return _published_cuts(layers)
    is_list = isinstance(cuts, np.ndarray) and cuts.dtype.kind == "f" and len(cuts) == layers
    if not is_list or not all(isfinite(cut) or cut == -np.inf for cut in cuts):
        raise gguf_keys.problem(checkpoint, key, cuts, f"{layers} numbers are needed")
    return tuple(float(cut) if isfinite(cut) else None for cut in cuts)
