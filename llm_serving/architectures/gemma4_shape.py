"""The sizes of a Gemma 4, which differ from layer to layer, from GGUF's keys or a config.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder_experts import gguf_sizes
from llm_serving.architectures.experts import ExpertSizes
from llm_serving.architectures.gemma import ACTIVATION
from llm_serving.architectures.gemma_layers import (
    LayerShape,
    logit_cap,
    num_shared,
    of_each_layer,
    of_kind,
    sharing_layers,
)
from llm_serving.architectures.layer_kinds import GLOBAL, LOCAL, global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.rope import proportional_factors

_LOCAL_THETA, _GLOBAL_THETA = 10000.0, 1000000.0
_GLOBAL_HEAD_DIM = 512
_GLOBAL_EVERY = 6  # layers, where a config.json does not say
_TURNING = 0.25  # of a head's frequencies in layers that see everything
_MOST_HEAD = 4096  # dimensions that factors are made for; the engine takes fewer


@dataclass(frozen=True, slots=True)
class Gemma4Shape:
    """The sizes of the model, checked. The last `shared` layers keep no keys and values."""

    hidden: int
    heads: int
    layers: tuple[LayerShape, ...]
    shared: int
    inputs: int  # numbers that each layer has for a token beside its row; 0: none
    context: int
    epsilon: float
    window: int
    local_rope: ops.Rope
    rope: ops.Rope
    logit_cap: float
    experts: ExpertSizes | None  # beside the feed-forward part of each layer


def read_shape(checkpoint: Checkpoint) -> Gemma4Shape:
    """Raises: CheckpointError when a size is missing, out of range, or not one that the engine runs."""
    return checked(checkpoint, (_of_gguf if checkpoint.format == "gguf" else _of_config)(checkpoint))


def checked(checkpoint: Checkpoint, shape: Gemma4Shape) -> Gemma4Shape:
    """The same. Raises: CheckpointError for sizes that the engine does not run."""
    if shape.experts is not None and shape.shared:
        raise CheckpointError(
            f"'{checkpoint.path}' has experts and layers that keep no keys and values; "
            "the engine runs one or the other."
        )
    for layer in shape.layers:
        if shape.heads % layer.kv_heads or layer.head_dim % 8:
            raise CheckpointError(
                f"{shape.heads} query heads over {layer.kv_heads} key heads of size {layer.head_dim} "
                f"in '{checkpoint.path}' is a shape the engine does not run."
            )
        rotated = (shape.local_rope if layer.is_local else shape.rope).rotated
        if rotated % 2 or rotated > layer.head_dim:
            raise CheckpointError(
                f"Rotating {rotated} of {layer.head_dim} dimensions in '{checkpoint.path}' is not possible."
            )
        sizes = {"hidden": shape.hidden, "feed-forward": layer.ffn, "attention": shape.heads * layer.head_dim}
        for name, size in {**sizes, "per-layer input": shape.inputs}.items():
            if size % 32:
                raise CheckpointError(
                    f"The {name} size of '{checkpoint.path}' is {size}; the engine needs a multiple of 32."
                )
    return shape


def _of_config(checkpoint: Checkpoint) -> Gemma4Shape:
    config_json.require(checkpoint, ACTIVATION[0], (ACTIVATION[1],), ACTIVATION[1])
    config_json.require(checkpoint, "attention_bias", (None, False), None)
    # What pictures see beside is nothing to texts.
    config_json.require(checkpoint, "use_bidirectional_attention", (None, "vision"), None)
    layers = config_json.num_layers(checkpoint, "num_hidden_layers")
    config = checkpoint.metadata
    ffn = config_json.positive(checkpoint, "intermediate_size")
    heads = config_json.positive(checkpoint, "num_attention_heads")
    head_dim = config_json.positive(checkpoint, "head_dim", default=256)
    kv_heads = config_json.positive(checkpoint, "num_key_value_heads", default=heads)
    shared = num_shared(checkpoint, "num_kv_shared_layers", config.get("num_kv_shared_layers") or 0, layers)
    is_global = global_layers(checkpoint, layers, _GLOBAL_EVERY)
    sizes = _global_sizes(checkpoint, is_global, kv_heads)
    widths = [
        ffn * (2 if config.get("use_double_wide_mlp") and i >= layers - shared else 1) for i in range(layers)
    ]
    local = (head_dim, kv_heads)
    inputs = config.get("hidden_size_per_layer_input", 256)
    experts = None
    if config.get("enable_moe_block"):
        experts = ExpertSizes(
            count=config_json.positive(checkpoint, "num_experts"),
            used=config_json.positive(checkpoint, "top_k_experts"),
            ffn=config_json.positive(checkpoint, "moe_intermediate_size"),
            normalized=True,
            activation="gelu_tanh",
        )
    cap = config.get("final_logit_softcapping")
    return Gemma4Shape(
        hidden=config_json.positive(checkpoint, "hidden_size"),
        heads=heads,
        layers=sharing_layers(
            checkpoint, [sizes.get(i, local) for i in range(layers)], widths, is_global, shared
        ),
        shared=shared,
        inputs=config_json.positive(checkpoint, "hidden_size_per_layer_input", default=256) if inputs else 0,
        context=config_json.positive(checkpoint, "max_position_embeddings", default=131072),
        epsilon=config_json.number(checkpoint, "rms_norm_eps", default=1e-6),
        window=config_json.positive(checkpoint, "sliding_window", default=512),
        local_rope=config_json.rope(of_kind(checkpoint, LOCAL), head_dim, _LOCAL_THETA),
        rope=_global_rope(checkpoint, next(iter(sizes.values()))[0]),
        logit_cap=0.0 if cap is None else logit_cap(checkpoint, cap),
        experts=experts,
    )


def _global_rope(checkpoint: Checkpoint, head_dim: int) -> ops.Rope:
    """Of layers that see everything: of all frequencies of a head, the fastest turn."""
    own = of_kind(checkpoint, GLOBAL)
    given: Any = own.metadata["rope_parameters"]
    if not isinstance(given, dict) or given.get("rope_type", "proportional") != "proportional":
        return config_json.rope(own, head_dim, _GLOBAL_THETA)
    share = config_json.number(
        replace(own, metadata=given), "partial_rotary_factor", default=_TURNING if not given else 1.0
    )
    if share > 1 or given.get("factor", 1.0) != 1.0:
        raise CheckpointError(
            f"The rotary parameters of '{GLOBAL}' in '{checkpoint.path}' are not supported."
        )
    if head_dim > _MOST_HEAD:
        raise CheckpointError(
            f"Attention heads of '{checkpoint.path}' have {head_dim} dimensions; that is no model's."
        )
    theta = config_json.number(replace(own, metadata=given), "rope_theta", default=_GLOBAL_THETA)
    return ops.Rope(theta, head_dim, factors=proportional_factors(head_dim, share))


def _global_sizes(
    checkpoint: Checkpoint, is_global: frozenset[int], kv_heads: int
) -> dict[int, tuple[int, int]]:
    """Head size and heads of each layer that sees everything, in the words of either age of config.json."""
    given: Any = checkpoint.metadata.get("per_layer_config") or {}
    if not isinstance(given, dict) or not all(isinstance(given.get(str(i), {}), dict) for i in is_global):
        raise CheckpointError(
            f"'per_layer_config' in the config.json of '{checkpoint.path}' is no object of objects."
        )
    if not is_global:
        raise CheckpointError(
            f"No layer of '{checkpoint.path}' sees everything; the last one of Gemma 4 does."
        )
    head_dim = config_json.positive(checkpoint, "global_head_dim", default=_GLOBAL_HEAD_DIM)
    heads = kv_heads
    is_own = checkpoint.metadata.get("num_global_key_value_heads") is not None
    if is_own and checkpoint.metadata.get("attention_k_eq_v", True):
        heads = config_json.positive(checkpoint, "num_global_key_value_heads")
    sizes = {}
    for i in is_global:
        own = replace(checkpoint, metadata=given.get(str(i), {}))
        sizes[i] = (
            config_json.positive(own, "head_dim", default=head_dim),
            config_json.positive(own, "num_key_value_heads", default=heads),
        )
    if len({size for size, _ in sizes.values()}) > 1:
        raise CheckpointError(
            f"Layers of '{checkpoint.path}' that see everything have heads of several sizes."
        )
    return sizes


def _of_gguf(checkpoint: Checkpoint) -> Gemma4Shape:
    layers = gguf_keys.num_layers(checkpoint)
    is_global = global_layers(checkpoint, layers, _GLOBAL_EVERY)
    global_dim = gguf_keys.positive(checkpoint, "attention.key_length")
    local_dim = gguf_keys.positive(checkpoint, "attention.key_length_swa", global_dim)
    kv_heads = of_each_layer(checkpoint, "attention.head_count_kv", layers)
    heads = [(global_dim if i in is_global else local_dim, kv_heads[i]) for i in range(layers)]
    shared = num_shared(
        checkpoint, "attention.shared_kv_layers", checkpoint.hyper("attention.shared_kv_layers", 0), layers
    )
    has_inputs = not gguf_keys.is_zero(checkpoint, "embedding_length_per_layer_input")
    has_experts = not gguf_keys.is_zero(checkpoint, "expert_count")
    cap = gguf_keys.number(checkpoint, "final_logit_softcapping", 1.0)
    has_cap = checkpoint.hyper("final_logit_softcapping") is not None
    local = gguf_keys.number(checkpoint, "rope.freq_base_swa", _LOCAL_THETA)
    factors = "rope_freqs.weight" if "rope_freqs.weight" in checkpoint.tensors else None
    return Gemma4Shape(
        hidden=gguf_keys.positive(checkpoint, "embedding_length"),
        heads=gguf_keys.positive(checkpoint, "attention.head_count"),
        layers=sharing_layers(
            checkpoint, heads, of_each_layer(checkpoint, "feed_forward_length", layers), is_global, shared
        ),
        shared=shared,
        inputs=gguf_keys.positive(checkpoint, "embedding_length_per_layer_input") if has_inputs else 0,
        context=gguf_keys.positive(checkpoint, "context_length", 131072),
        epsilon=gguf_keys.number(checkpoint, "attention.layer_norm_rms_epsilon", 1e-6),
        window=gguf_keys.positive(checkpoint, "attention.sliding_window"),
        local_rope=ops.Rope(local, gguf_keys.positive(checkpoint, "rope.dimension_count_swa", local_dim)),
        rope=ops.Rope(
            gguf_keys.number(checkpoint, "rope.freq_base", _GLOBAL_THETA),
            gguf_keys.positive(checkpoint, "rope.dimension_count", global_dim),
            factors_tensor=factors,
        ),
        logit_cap=logit_cap(checkpoint, cap) if has_cap else 0.0,
        experts=_with_gelu(gguf_sizes(checkpoint, ffn="expert_feed_forward_length")) if has_experts else None,
    )


def _with_gelu(sizes: ExpertSizes) -> ExpertSizes:
    return replace(sizes, activation="gelu_tanh")
