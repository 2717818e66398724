"""Granite 4: Mamba-2 in most layers, attention mostly without positions in the others (IBM 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, gguf_keys, granite
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_layer import feed_forward, layer
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.architectures.layer_kinds import GLOBAL, gguf_key_heads, layers_of
from llm_serving.architectures.mamba_layer import (
    ROWS,
    MambaKeys,
    mamba_buffers,
    mamba_heads,
    mamba_layer,
    mamba_names,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

ATTENTION, MAMBA = ("attention", GLOBAL), ("mamba", "linear_attention")  # kinds of layers, older and newer
_DEFAULTS = Defaults(epsilon=1e-6)
_KEYS = MambaKeys()


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """With experts and one for all tokens, or dense; models whose layers are all attention are of the family.

    Raises: CheckpointError for a size that is missing, or anything that the engine does not run.
    """
    attending = _attending(checkpoint)
    checkpoint, names, kind = _with_feed_forward(with_key_heads(checkpoint), read_names(checkpoint))
    shape = read_shape(checkpoint, _DEFAULTS)
    if not _rotates(checkpoint):
        kind = replace(kind, still=frozenset(range(shape.layers)))
    if len(attending) == shape.layers:
        return plan_of(checkpoint, names, shape, kind)
    inner = None
    if checkpoint.format == "huggingface":
        inner = config_json.positive(checkpoint, "mamba_expand", default=2) * shape.hidden
    heads = mamba_heads(checkpoint, _KEYS, inner)
    own = mamba_names(checkpoint, names.query.replace("self_attn.q_proj", "mamba."), _KEYS)
    epsilons = (shape.epsilon / kind.scales.parts**2, shape.epsilon)  # as in `plan_of`
    return hybrid_plan(
        checkpoint,
        names,
        shape,
        kind,
        attending,
        lambda i: mamba_layer(i, names.input_norm, own, heads, epsilons),
        mamba_buffers(heads),
        heads.state_floats,
    )


def hybrid_plan(
    checkpoint: Checkpoint,
    names: Names,
    shape: Shape,
    kind: Kind,
    attending: frozenset[int],
    recurrent: Callable[[int], tuple[ops.Operation, ...]],
    buffers: dict[str, int],
    state_floats: int,
) -> ops.ModelPlan:
    """Layers of attention, the others of `recurrent` with its buffers, each with a feed-forward part.

    `state_floats` are those of a layer. Raises: CheckpointError when no layer is attention.
    """
    if not attending:
        raise CheckpointError(f"No layer of '{checkpoint.path}' is attention; the engine needs some.")
    rows = replace(shape, epsilon=shape.epsilon / kind.scales.parts**2)  # as in `plan_of`

    def own_layer(index: int) -> tuple[ops.Operation, ...]:
        if index in attending:
            return layer(checkpoint, index, names, rows, kind, sum(i < index for i in attending))
        return (*recurrent(index), *feed_forward(checkpoint, index, names, rows, kind))

    plan = plan_of(checkpoint, names, shape, kind, own_layer)
    return replace(
        plan,
        kv=plan.kv[: len(attending)],
        buffers={ROWS: shape.hidden, **buffers, **plan.buffers},
        state_floats=(shape.layers - len(attending)) * state_floats,
    )


def _attending(checkpoint: Checkpoint) -> frozenset[int]:
    """Layers that are attention. Raises: CheckpointError for a list that is not one of layers."""
    if checkpoint.format == "gguf":
        return frozenset(gguf_key_heads(checkpoint).nonzero()[0].tolist())
    layers = config_json.num_layers(checkpoint, "num_hidden_layers")
    key = "layer_types" if checkpoint.metadata.get("layer_types") is not None else "layers_block_type"
    return layers_of(checkpoint, key, layers, ATTENTION, MAMBA)


def with_key_heads(checkpoint: Checkpoint) -> Checkpoint:
    """With one number of key heads, as other decoders have it."""
    if checkpoint.format != "gguf":
        return checkpoint
    key, heads = f"{checkpoint.architecture}.attention.head_count_kv", int(gguf_key_heads(checkpoint).max())
    return replace(checkpoint, metadata={**checkpoint.metadata, key: heads})


def _with_feed_forward(checkpoint: Checkpoint, names: Names) -> tuple[Checkpoint, Names, Kind]:
    """A dense model's part is what is the shared expert of others; its size stands under that one's key."""
    if checkpoint.format == "gguf":
        has_experts = bool(checkpoint.hyper("expert_count"))
        return checkpoint, names, granite.kind_of(checkpoint, has_experts)
    experts: Any = checkpoint.metadata.get("num_local_experts", 8)
    if experts != 0 or isinstance(experts, bool):
        return checkpoint, names, granite.kind_of(checkpoint, True)
    size = config_json.positive(checkpoint, "shared_intermediate_size")
    part = names.gate.replace("mlp.gate_proj", "shared_mlp.")
    names = replace(names, gate_up=f"{part}input_linear", down=f"{part}output_linear")
    checkpoint = replace(checkpoint, metadata={**checkpoint.metadata, "intermediate_size": size})
    return checkpoint, names, replace(granite.kind_of(checkpoint, False), fused_gates=True)


def _rotates(checkpoint: Checkpoint) -> bool:
    """Raises: CheckpointError for positions of another kind."""
    if checkpoint.format == "gguf":
        rotates = checkpoint.hyper("rope.scaling.finetuned", True)
        if not isinstance(rotates, bool):
            raise gguf_keys.problem(checkpoint, "rope.scaling.finetuned", rotates, "yes or no is needed")
        return rotates
    config_json.require(checkpoint, "position_embedding_type", ("rope", "nope", None), None)
    return checkpoint.metadata.get("position_embedding_type") == "rope"
