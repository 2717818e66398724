"""LFM2: gated short convolutions, and attention in a few layers (Liquid AI 2025).

A convolution sees a token and the two before it; what it needs of these is all that such a layer remembers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_layer import feed_forward
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.architectures.layer_kinds import GLOBAL, gguf_key_heads, layers_of
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

CONVOLUTION = "conv"  # what config.json calls layers that are no attention
_DEFAULTS = Defaults(theta=1000000.0, context=128000)
_TAPS = 3
_MOST_TAPS = 8  # kMostTaps in src/gated_conv.hpp


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a size that is missing, biases, windows, or layers of one kind only."""
    gate = _weight(_names(checkpoint)[0].gate, 0)
    if checkpoint.format == "huggingface":
        # What config.json says is mostly cut to two thirds and rounded up, by further keys.
        size = checkpoint.tensor(gate).shape[0]
        checkpoint = replace(checkpoint, metadata={**checkpoint.metadata, "intermediate_size": size})
    return hybrid_plan(checkpoint, lambda names, layers: Kind())


def hybrid_plan(checkpoint: Checkpoint, kind_of: Callable[[Names, int], Kind]) -> ops.ModelPlan:
    """`kind_of` says by names and number of layers what feed-forward parts are. Raises: as `describe`."""
    names, inputs, conv, output = _names(checkpoint)
    attending = _attending(checkpoint)
    shape = read_shape(_plain(checkpoint), _DEFAULTS)
    if shape.layers <= max(attending, default=shape.layers) or len(attending) == shape.layers:
        raise CheckpointError(
            f"'{checkpoint.path}' has attention in layers {sorted(attending)} of {shape.layers}; "
            "the engine needs some with it and some without."
        )
    taps, kind = _taps(checkpoint), kind_of(names, shape.layers)

    def layer(index: int) -> tuple[ops.Operation, ...]:
        read = ops.Quantize("x", _weight(names.input_norm, index), shape.epsilon)
        if index in attending:
            own = _attention(index, sum(i < index for i in attending), names, shape)
        else:
            own = (
                ops.Linear((ops.Projection(_weight(inputs, index), "conv_in"),)),
                ops.GatedConv("conv_in", "conv", _weight(conv, index), taps),
                ops.Quantize("conv"),
                ops.Linear((ops.Projection(_weight(output, index), "x"),), accumulate=True),
            )
        return (read, *own, *feed_forward(checkpoint, index, names, shape, kind))

    plan = plan_of(checkpoint, names, shape, kind, layer)
    own_buffers = {"x": shape.hidden, "conv_in": 3 * shape.hidden, "conv": shape.hidden}
    return replace(
        plan,
        kv=plan.kv[: len(attending)],
        buffers={**own_buffers, **plan.buffers},
        state_floats=(shape.layers - len(attending)) * (taps - 1) * shape.hidden,
    )


def _attention(index: int, layer: int, names: Names, shape: Shape) -> tuple[ops.Operation, ...]:
    """Of normed heads; `layer` is the cache's."""
    keys = shape.queries + shape.keys
    return (
        ops.Linear(
            (
                ops.Projection(_weight(names.query, index), "qkv"),
                ops.Projection(_weight(names.key, index), "qkv", shape.queries),
                ops.Projection(_weight(names.value, index), "qkv", keys),
            )
        ),
        ops.HeadNorm("qkv", 0, shape.queries, shape.heads, _weight(names.query_norm, index), shape.epsilon),
        ops.HeadNorm(
            "qkv", shape.queries, shape.keys, shape.kv_heads, _weight(names.key_norm, index), shape.epsilon
        ),
        ops.RopeStore("qkv", layer),
        ops.Attention("qkv", "attention", layer, shape.head_dim**-0.5),
        ops.Quantize("attention"),
        ops.Linear((ops.Projection(_weight(names.output, index), "x"),), accumulate=True),
    )


def _names(checkpoint: Checkpoint) -> tuple[Names, str, str, str]:
    """And those of a convolution: what goes in, its weights, what comes out."""
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        conv = "blk.{i}.shortconv."
        return replace(names, norm="token_embd_norm"), f"{conv}in_proj", f"{conv}conv", f"{conv}out_proj"
    prefix = config_json.prefix_of(checkpoint, "embed_tokens.weight")
    layer = prefix + "layers.{i}."
    names = replace(
        names,
        input_norm=f"{layer}operator_norm",
        query_norm=f"{layer}self_attn.q_layernorm",
        key_norm=f"{layer}self_attn.k_layernorm",
        output=f"{layer}self_attn.out_proj",
        ffn_norm=f"{layer}ffn_norm",
        gate=f"{layer}feed_forward.w1",
        up=f"{layer}feed_forward.w3",
        down=f"{layer}feed_forward.w2",
        norm=f"{prefix}embedding_norm",
    )
    return names, f"{layer}conv.in_proj", f"{layer}conv.conv", f"{layer}conv.out_proj"


def _plain(checkpoint: Checkpoint) -> Checkpoint:
    """With sizes under the keys that other decoders have them under."""
    if checkpoint.format == "gguf":
        if not gguf_keys.is_zero(checkpoint, "attention.sliding_window"):
            window = checkpoint.hyper("attention.sliding_window")
            raise gguf_keys.problem(checkpoint, "attention.sliding_window", window, "it is not supported")
        key = f"{checkpoint.architecture}.attention.head_count_kv"
        heads = int(max(gguf_key_heads(checkpoint)))
        return replace(checkpoint, metadata={**checkpoint.metadata, key: heads})
    config_json.require(checkpoint, "conv_bias", (False,), False)
    config: dict[str, Any] = {
        **checkpoint.metadata,
        "rms_norm_eps": checkpoint.metadata.get("norm_eps", _DEFAULTS.epsilon),
    }
    if "tie_embedding" in config:
        config["tie_word_embeddings"] = config["tie_embedding"]
    return replace(checkpoint, metadata=config)


def _taps(checkpoint: Checkpoint) -> int:
    if checkpoint.format == "gguf":
        taps = gguf_keys.positive(checkpoint, "shortconv.l_cache")
    else:
        taps = config_json.positive(checkpoint, "conv_L_cache", default=_TAPS)
    if not 1 < taps <= _MOST_TAPS:
        raise CheckpointError(
            f"Convolutions of '{checkpoint.path}' see {taps} tokens; 2 to {_MOST_TAPS} are supported."
        )
    return taps


def _attending(checkpoint: Checkpoint) -> frozenset[int]:
    """Layers that are attention. Raises: CheckpointError for a list that is not one of layers."""
    if checkpoint.format == "gguf":
        return frozenset(np.flatnonzero(gguf_key_heads(checkpoint)).tolist())
    layers = config_json.num_layers(checkpoint, "num_hidden_layers")
    if checkpoint.metadata.get("layer_types") is None:  # older files number those that are attention
        numbers = checkpoint.metadata.get("full_attn_idxs")
        if isinstance(numbers, list) and all(type(i) is int and 0 <= i < layers for i in numbers):
            return frozenset(numbers)
    return layers_of(checkpoint, "layer_types", layers, (GLOBAL,), (CONVOLUTION,))


def _weight(name: str, index: int) -> str:
    return f"{name.format(i=index)}.weight"
