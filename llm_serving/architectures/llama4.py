"""Llama 4: attention in chunks, and in every fourth layer to all without positions; experts whose inputs are
weighted, beside one for all tokens (Meta 2025). The text model; what sees in a directory is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_experts import GGUF_NAMES, gguf_sizes
from llm_serving.architectures.decoder_layer import feed_forward, norm_of
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.architectures.experts import ExpertNames, ExpertSizes, SharedNames
from llm_serving.architectures.layer_kinds import every, layers_of
from llm_serving.architectures.shared_experts import GGUF_SHARED
from llm_serving.architectures.smollm3 import still_layers
from llm_serving.architectures.text_part import text_part
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

_DEFAULTS = Defaults(theta=500000.0, context=131072)
_TEXT_KIND = "llama4_text"
_CHUNK, _PIECE = 8192, 256  # tokens; the second is kPieceTokens in kernels.hpp
_STILL_EVERY = 4  # layers; the last of four is told no positions, and sees everything
_GROWTH, _SPAN = 0.1, 8192
_WITHOUT_NORM = 128  # experts: of Maverick, whose heads are not normed, which GGUF files do not say
_CHUNKED, _FULL = "chunked_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class _Attention:
    """What differs from layer to layer."""

    still: frozenset[int]  # layers that are told no positions
    full: frozenset[int]  # layers in which a token sees all before it
    chunk: int  # tokens that it sees a stretch of in the others
    is_normed: bool  # heads of queries and keys, behind rotation
    growth: ops.Rope | None  # of queries in still layers


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        shape, kind, attention = _of_gguf(checkpoint)
    else:
        checkpoint = text_part(checkpoint)
        config_json.require(checkpoint, "model_type", (_TEXT_KIND,), _TEXT_KIND)
        names, shape, kind, attention = _of_config(checkpoint, names)
    return plan_of(
        checkpoint,
        names,
        shape,
        kind,
        lambda i: (
            *_attend(i, names, shape, kind, attention),
            *feed_forward(checkpoint, i, names, shape, kind),
        ),
    )


def _attend(
    i: int, names: Names, shape: Shape, kind: Kind, attention: _Attention
) -> tuple[ops.Operation, ...]:
    """x += attention(norm(x)). Queries and keys are normed behind rotation, by no weights."""
    rotates = i not in attention.still

    def matrix(name: str, offset: int, interleaved: int = 0) -> ops.Projection:
        return ops.Projection(f"{name.format(i=i)}.weight", "qkv", offset, interleaved=interleaved)

    growth = [] if rotates or attention.growth is None else [attention.growth]
    return (
        norm_of("x", names.input_norm.format(i=i), shape, kind),
        ops.Linear(
            (
                matrix(names.query, 0, shape.head_dim),
                matrix(names.key, shape.queries, shape.head_dim),
                matrix(names.value, shape.queries + shape.keys),
            )
        ),
        *(ops.Rotate("qkv", shape.heads, shape.head_dim, rope) for rope in growth),
        *(_rotate_and_norm(shape) if rotates and attention.is_normed else ()),
        ops.RopeStore("qkv", i, None if rotates and not attention.is_normed else shape.rope.still),
        ops.Attention(
            "qkv",
            "attention",
            i,
            shape.head_dim**-0.5,
            chunk=0 if i in attention.full else attention.chunk,
        ),
        ops.Quantize("attention"),
        ops.Linear((ops.Projection(f"{names.output.format(i=i)}.weight", "x"),), accumulate=True),
    )


def _rotate_and_norm(shape: Shape) -> tuple[ops.Operation, ...]:
    heads = shape.heads + shape.kv_heads
    return (
        ops.Rotate("qkv", heads, shape.head_dim, shape.rope),
        ops.HeadNorm("qkv", 0, shape.queries + shape.keys, heads, None, shape.epsilon),
    )


def _of_config(checkpoint: Checkpoint, names: Names) -> tuple[Names, Shape, Kind, _Attention]:
    config_json.require(checkpoint, "attention_bias", (None, False), None)
    part = names.gate.removesuffix("mlp.gate_proj") + "feed_forward."
    names = replace(names, **{key: f"{part}{key}_proj" for key in ("gate", "up", "down")})
    shape = read_shape(checkpoint, _DEFAULTS)
    width, shape = shape.ffn, replace(shape, ffn=_dense_width(checkpoint, shape.ffn))
    experts = ExpertNames(
        router=f"{part}router.weight",
        up=f"{part}experts.gate_up_proj",
        down=f"{part}experts.down_proj",
        fused=True,
        up_transposed=True,
        transposed=True,
        shared=SharedNames(
            **{key: f"{part}shared_expert.{key}_proj.weight" for key in ("gate", "up", "down")}
        ),
    )
    sizes = ExpertSizes(
        count=config_json.positive(checkpoint, "num_local_experts"),
        used=config_json.positive(checkpoint, "num_experts_per_tok"),
        ffn=width,
    )
    config = checkpoint.metadata
    still, chunk = still_layers(checkpoint), 0
    full = still
    if config.get("attention_chunk_size", _CHUNK) is not None:
        chunk = config_json.positive(checkpoint, "attention_chunk_size", default=_CHUNK)
        if config.get("layer_types") is not None:
            full = layers_of(checkpoint, "layer_types", shape.layers, (_FULL,), (_CHUNKED,))
    grows = bool(config.get("attn_temperature_tuning", True))
    attention = _Attention(
        still=still,
        full=full,
        chunk=_checked_chunk(checkpoint, chunk, shape),
        is_normed=bool(config.get("use_qk_norm", True)),
        growth=_growing(
            checkpoint,
            shape,
            config_json.number(checkpoint, "attn_scale", default=_GROWTH),
            config_json.positive(checkpoint, "floor_scale", default=_SPAN),
        )
        if grows
        else None,
    )
    return names, shape, _kind(experts, sizes, _dense_layers(checkpoint, shape.layers)), attention


def _dense_width(checkpoint: Checkpoint, default: int) -> int:
    width = config_json.positive(checkpoint, "intermediate_size_mlp", default=default)
    if width % 32:
        raise CheckpointError(
            f"'intermediate_size_mlp' of '{checkpoint.path}' is {width}; the engine needs a multiple of 32."
        )
    return width


def _dense_layers(checkpoint: Checkpoint, layers: int) -> frozenset[int]:
    """Those without experts. Raises: CheckpointError for a list that is not one of layers."""
    given: Any = checkpoint.metadata.get("moe_layers")
    if given is None:
        step = config_json.positive(checkpoint, "interleave_moe_layer_step", default=1)
        return frozenset(range(layers)) - every(step, layers)
    if not isinstance(given, list) or not all(type(i) is int and 0 <= i < layers for i in given):
        raise CheckpointError(
            f"'moe_layers' in the config.json of '{checkpoint.path}' is no list of layers below {layers}."
        )
    return frozenset(range(layers)) - frozenset(given)


def _of_gguf(checkpoint: Checkpoint) -> tuple[Shape, Kind, _Attention]:
    window = checkpoint.hyper("attention.sliding_window")
    if window is not None:
        raise gguf_keys.problem(
            checkpoint, "attention.sliding_window", window, "only files without it are supported"
        )
    shape = read_shape(checkpoint, _DEFAULTS)
    sizes = gguf_sizes(checkpoint, ffn="expert_feed_forward_length", normalized=False)
    step = gguf_keys.positive(checkpoint, "interleave_moe_layer_step", 1)
    dense = frozenset(range(shape.layers)) - every(step, shape.layers)
    still = every(_STILL_EVERY, shape.layers)
    attention = _Attention(
        still=still,
        full=still,
        chunk=_checked_chunk(checkpoint, _CHUNK, shape),
        is_normed=sizes.count != _WITHOUT_NORM,
        growth=_growing(checkpoint, shape, _GROWTH, _SPAN),
    )
    return shape, _kind(replace(GGUF_NAMES, shared=GGUF_SHARED), sizes, dense), attention


def _kind(names: ExpertNames, sizes: ExpertSizes, dense: frozenset[int]) -> Kind:
    own = replace(sizes, scores="sigmoid", normalized=False, shared=sizes.ffn, weighted_inputs=True)
    return Kind(experts=(names, own), dense=dense)


def _checked_chunk(checkpoint: Checkpoint, chunk: int, shape: Shape) -> int:
    """0 where a context is no longer. Raises: CheckpointError for one that attention does not have."""
    if chunk >= shape.context:
        return 0
    if chunk % _PIECE:
        raise CheckpointError(
            f"'attention_chunk_size' of '{checkpoint.path}' is {chunk}; "
            f"the engine needs a multiple of {_PIECE}."
        )
    return chunk


def _growing(checkpoint: Checkpoint, shape: Shape, growth: float, span: int) -> ops.Rope:
    """Queries, by positions that are counted from one (Nakanishi 2025, "Scalable-Softmax")."""
    if growth > 1:
        raise CheckpointError(f"Queries of '{checkpoint.path}' grow by {growth:g}: no model has that.")
    return replace(ops.Rope(shape.rope.theta, shape.head_dim).still, growth=growth, span=span, first=1)
