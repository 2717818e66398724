"""Jamba: Mamba in most layers, attention without positions in some, experts in some (AI21 2024)."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Kind
from llm_serving.architectures.decoder_experts import GGUF_NAMES, gguf_sizes
from llm_serving.architectures.decoder_shape import Defaults, Names, read_names, read_shape
from llm_serving.architectures.experts import ExpertNames, ExpertSizes
from llm_serving.architectures.granite_hybrid import hybrid_plan, with_key_heads
from llm_serving.architectures.layer_kinds import gguf_key_heads
from llm_serving.architectures.selective_layer import (
    SelectiveKeys,
    SelectiveNames,
    selective_buffers,
    selective_layer,
    selective_names,
    selective_sizes,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

_KEYS = SelectiveKeys(
    state="mamba_d_state",
    taps="mamba_d_conv",
    rank="mamba_dt_rank",
    expand="mamba_expand",
    inner=None,
    conv_bias="mamba_conv_bias",
    proj_bias="mamba_proj_bias",
)
_DEFAULTS = Defaults(epsilon=1e-6, context=262144)


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    attending = _attending(checkpoint)
    checkpoint = with_key_heads(checkpoint)
    names, shape = _names(checkpoint), read_shape(checkpoint, _DEFAULTS)
    every = frozenset(range(shape.layers))
    experts = _experts(checkpoint, names)
    dense = frozenset(i for i in every if experts[0].router.format(i=i) not in checkpoint.tensors)
    kind = Kind(still=every)
    if dense != every:
        kind = replace(kind, experts=experts, dense=dense)
    sizes = replace(selective_sizes(checkpoint, _KEYS, shape.hidden), epsilon=shape.epsilon)
    own = _mamba_names(checkpoint, names)
    return hybrid_plan(
        checkpoint,
        names,
        shape,
        kind,
        attending,
        lambda i: selective_layer(i, names.input_norm, own, sizes, shape.epsilon),
        selective_buffers(sizes),
        sizes.channels.state_floats,
    )


def _attending(checkpoint: Checkpoint) -> frozenset[int]:
    """Layers that are attention. Raises: CheckpointError for a list or a period that is none."""
    if checkpoint.format == "gguf":
        return frozenset(gguf_key_heads(checkpoint).nonzero()[0].tolist())
    layers = config_json.num_layers(checkpoint, "num_hidden_layers")
    period = config_json.positive(checkpoint, "attn_layer_period", default=8)
    offset = checkpoint.metadata.get("attn_layer_offset", 4)
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset < period:
        raise CheckpointError(
            f"'attn_layer_offset' in the config.json of '{checkpoint.path}' is {offset!r}; "
            f"an integer from 0 to {period - 1} is needed."
        )
    return frozenset(range(offset, layers, period))


def _names(checkpoint: Checkpoint) -> Names:
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        return names
    layer = names.gate.removesuffix("mlp.gate_proj")
    return replace(
        names,
        norm=names.words.replace("embed_tokens", "final_layernorm"),
        ffn_norm=f"{layer}pre_ff_layernorm",
        gate=f"{layer}feed_forward.gate_proj",
        up=f"{layer}feed_forward.up_proj",
        down=f"{layer}feed_forward.down_proj",
    )


def _mamba_names(checkpoint: Checkpoint, names: Names) -> SelectiveNames:
    layer = names.query.replace("self_attn.q_proj", "mamba.")
    own = selective_names(checkpoint, layer, _KEYS)
    if checkpoint.format == "gguf":
        steps, b, c = (f"blk.{{i}}.ssm_{part}_norm.weight" for part in ("dt", "b", "c"))
    else:
        steps, b, c = (f"{layer}{part}_layernorm.weight" for part in ("dt", "b", "c"))
    return replace(own, norms=(steps, b, c))


def _experts(checkpoint: Checkpoint, names: Names) -> tuple[ExpertNames, ExpertSizes]:
    """Weights of those used have no sum of one. Which layers have experts, tensors tell."""
    if checkpoint.format == "gguf":
        return GGUF_NAMES, gguf_sizes(checkpoint, normalized=False)
    part = names.gate.removesuffix("gate_proj")
    experts = ExpertNames(
        router=f"{part}router.weight",
        gate=f"{part}experts.{{e}}.gate_proj.weight",
        up=f"{part}experts.{{e}}.up_proj.weight",
        down=f"{part}experts.{{e}}.down_proj.weight",
    )
    sizes = ExpertSizes(
        count=config_json.positive(checkpoint, "num_experts", default=16),
        used=config_json.positive(checkpoint, "num_experts_per_tok", default=2),
        ffn=config_json.positive(checkpoint, "intermediate_size"),
    )
    return experts, sizes
