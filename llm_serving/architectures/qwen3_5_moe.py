"""Mixtures of experts with layers of Gated DeltaNet: Qwen3.5-MoE and Qwen3-Next, one expert shared by all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind
from llm_serving.architectures.decoder_experts import GGUF_NAMES, gguf_sizes
from llm_serving.architectures.decoder_shape import Names
from llm_serving.architectures.delta_layer import DeltaNames
from llm_serving.architectures.experts import ExpertNames, ExpertSizes, SharedNames
from llm_serving.architectures.qwen3_5 import (
    decoder_names,
    delta_heads,
    delta_names,
    hybrid_plan,
    text_part,
    turned_by_axes,
)
from llm_serving.architectures.shared_experts import GGUF_SHARED
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops
from llm_serving.native.delta_net import DeltaHeads


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    text = _with_ffn(text_part(checkpoint))
    names, heads = decoder_names(text), delta_heads(text, tiled=text.format == "gguf")
    own = delta_names(text, names, heads)
    return turned_by_axes(hybrid_plan(text, names, own, heads, _kind(text, names)), text, checkpoint)


def describe_next(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Qwen3-Next. Raises: CheckpointError as `describe`, and for dense layers among the others."""
    checkpoint = _with_ffn(text_part(checkpoint))
    if checkpoint.format == "huggingface":
        config_json.require(checkpoint, "decoder_sparse_step", (1,), 1)
        config_json.require(checkpoint, "mlp_only_layers", ([],), [])
        config_json.require(checkpoint, "norm_topk_prob", (True,), True)
    names, heads = decoder_names(checkpoint), delta_heads(checkpoint, tiled=False)
    own = delta_names(checkpoint, names, heads)
    own = replace(own, inputs=_inputs_in_turn(checkpoint, names, own, heads))
    return hybrid_plan(checkpoint, names, own, heads, _kind(checkpoint, names))


def _with_ffn(checkpoint: Checkpoint) -> Checkpoint:
    """A feed-forward size that no layer uses may be missing, or be another one's."""
    metadata: Any = checkpoint.metadata
    if checkpoint.format == "gguf":
        own = f"{checkpoint.architecture}.feed_forward_length"
        size = gguf_keys.positive(checkpoint, "expert_feed_forward_length")
    else:
        own, size = "intermediate_size", config_json.positive(checkpoint, "moe_intermediate_size")
    return replace(checkpoint, metadata={**metadata, own: size})


def _kind(checkpoint: Checkpoint, names: Names) -> Kind:
    if checkpoint.format == "gguf":
        sizes = gguf_sizes(checkpoint, ffn="expert_feed_forward_length")
        wide = gguf_keys.positive(checkpoint, "expert_shared_feed_forward_length")
        experts = replace(GGUF_NAMES, shared=replace(GGUF_SHARED, door="blk.{i}.ffn_gate_inp_shexp.weight"))
        return Kind(experts=(experts, replace(sizes, shared=wide, has_door=True)))
    part = names.gate.replace("gate_proj", "")
    shared = SharedNames(
        gate=f"{part}shared_expert.gate_proj.weight",
        up=f"{part}shared_expert.up_proj.weight",
        down=f"{part}shared_expert.down_proj.weight",
        door=f"{part}shared_expert_gate.weight",
    )
    sizes = ExpertSizes(
        count=config_json.positive(checkpoint, "num_experts"),
        used=config_json.positive(checkpoint, "num_experts_per_tok"),
        ffn=config_json.positive(checkpoint, "moe_intermediate_size"),
        normalized=True,
        shared=config_json.positive(checkpoint, "shared_expert_intermediate_size"),
        has_door=True,
    )
    return Kind(experts=(replace(_expert_names(checkpoint, part), shared=shared), sizes))


def _expert_names(checkpoint: Checkpoint, part: str) -> ExpertNames:
    """Directories have all experts in a tensor, or each in its own."""
    together = f"{part}experts.gate_up_proj"
    if together.format(i=0) in checkpoint.tensors:
        return ExpertNames(f"{part}gate.weight", up=together, down=f"{part}experts.down_proj", fused=True)
    one = f"{part}experts.{{e}}."
    return ExpertNames(
        router=f"{part}gate.weight",
        gate=f"{one}gate_proj.weight",
        up=f"{one}up_proj.weight",
        down=f"{one}down_proj.weight",
    )


def _inputs_in_turn(
    checkpoint: Checkpoint, names: Names, own: DeltaNames, heads: DeltaHeads
) -> tuple[tuple[str, ops.Stripe | None, int], ...]:
    """Rows of one key head stand together: its query and key, its values, their gates; beta and decay, too.

    GGUF files have beta and decay so, and the others only if they are old.
    """
    group = heads.values // heads.keys
    sizes = (heads.key_dim, heads.key_dim, group * heads.value_dim, group * heads.value_dim)
    if checkpoint.format == "gguf":
        mixed, gates = "blk.{i}.ssm_in.weight", "blk.{i}.ssm_ba.weight"
        is_apart = mixed.format(i=0) not in checkpoint.tensors
    else:
        layer = names.query.replace("self_attn.q_proj", "linear_attn.")
        mixed, gates, is_apart = f"{layer}in_proj_qkvz.weight", f"{layer}in_proj_ba.weight", False
    inputs = own.inputs[:2] if is_apart else _stripes(mixed, sizes, heads.keys)
    return (*inputs, *_stripes(gates, (group, group), heads.keys))


def _stripes(
    tensor: str, sizes: tuple[int, ...], count: int
) -> tuple[tuple[str, ops.Stripe | None, int], ...]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(
        (tensor, ops.Stripe(end - size, size, ends[-1]), size * count)
        for size, end in zip(sizes, ends, strict=True)
    )
