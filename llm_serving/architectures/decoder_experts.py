"""Decoders whose feed-forward parts are mixtures of experts: Mixtral, OLMoE, Qwen3-MoE, Mellum 2.

Jiang et al. 2024, Muennighoff et al. 2024, Yang et al. 2025.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import gguf_keys, qwen3
from llm_serving.architectures.config_json import positive, prefix_of, require, rope_theta
from llm_serving.architectures.decoder import Kind, describe_decoder, plan_of
from llm_serving.architectures.decoder_shape import Defaults, read_names, read_shape
from llm_serving.architectures.experts import ExpertNames, ExpertSizes
from llm_serving.architectures.layer_kinds import GLOBAL, LOCAL, global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan, Rope

_MELLUM = Defaults(theta=500000.0, epsilon=1e-6, context=131072, kind=GLOBAL)
_GLOBAL_EVERY = 4  # layers; the last of four sees everything

GGUF_NAMES = ExpertNames(
    router="blk.{i}.ffn_gate_inp.weight",
    gate="blk.{i}.ffn_gate_exps.weight",
    up="blk.{i}.ffn_up_exps.weight",
    down="blk.{i}.ffn_down_exps.weight",
)


def describe_mixtral(checkpoint: Checkpoint) -> ModelPlan:
    """A directory of Mixtral's family, or a GGUF file, where it is called llama like the dense ones.

    Raises: CheckpointError when a size is missing or out of range.
    """
    if checkpoint.format == "gguf":
        experts = (GGUF_NAMES, gguf_sizes(checkpoint))
        return describe_decoder(checkpoint, Kind(interleaved=True, experts=experts))
    window = 0
    if checkpoint.metadata.get("sliding_window") is not None:
        window = positive(checkpoint, "sliding_window")
    return describe_decoder(checkpoint, Kind(experts=block_sparse_experts(checkpoint), window=window))


def block_sparse_experts(checkpoint: Checkpoint) -> tuple[ExpertNames, ExpertSizes]:
    """Of a directory that calls them as Mixtral's do. Raises: CheckpointError for a size that is missing."""
    mixture = f"{prefix_of(checkpoint, 'embed_tokens.weight')}layers.{{i}}.block_sparse_moe."
    names = ExpertNames(
        router=f"{mixture}gate.weight",
        gate=f"{mixture}experts.{{e}}.w1.weight",
        up=f"{mixture}experts.{{e}}.w3.weight",
        down=f"{mixture}experts.{{e}}.w2.weight",
    )
    sizes = ExpertSizes(
        count=positive(checkpoint, "num_local_experts"),
        used=positive(checkpoint, "num_experts_per_tok"),
        ffn=positive(checkpoint, "intermediate_size"),
        normalized=True,
    )
    return names, sizes


def describe_qwen3_moe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError as `qwen3_moe_kind`, and for biases or sliding windows."""
    qwen3.require_plain(checkpoint)
    return describe_decoder(checkpoint, qwen3_moe_kind(checkpoint), qwen3.DEFAULTS)


def qwen3_moe_kind(checkpoint: Checkpoint) -> Kind:
    """Raises: CheckpointError for dense layers among the others, or a size that is missing."""
    if checkpoint.format == "gguf":
        experts = (GGUF_NAMES, gguf_sizes(checkpoint, ffn="expert_feed_forward_length"))
    else:
        require(checkpoint, "decoder_sparse_step", (1,), 1)
        require(checkpoint, "mlp_only_layers", ([],), [])
        experts = _of_config(checkpoint, "moe_intermediate_size")
    return Kind(head_norm=True, experts=experts)


def describe_olmoe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases, or queries, keys and values that are clipped."""
    if checkpoint.format == "gguf":
        if checkpoint.hyper("attention.clamp_kqv"):
            raise gguf_keys.problem(checkpoint, "attention.clamp_kqv", "there", "it is not supported")
        experts = (GGUF_NAMES, gguf_sizes(checkpoint, normalized=False))
    else:
        require(checkpoint, "attention_bias", (False,), False)
        require(checkpoint, "clip_qkv", (None,), None)
        experts = _of_config(checkpoint, "intermediate_size")
    return describe_decoder(checkpoint, Kind(whole_norm=True, experts=experts))


def describe_mellum(checkpoint: Checkpoint) -> ModelPlan:
    """Windows in three of four layers, whose positions are not scaled (JetBrains 2026).

    Raises: CheckpointError for biases, or a window that is no positive integer.
    """
    shape = read_shape(checkpoint, _MELLUM)
    if checkpoint.format == "gguf":
        experts = (GGUF_NAMES, gguf_sizes(checkpoint, ffn="expert_feed_forward_length"))
        has_window = not gguf_keys.is_zero(checkpoint, "attention.sliding_window")
        window = gguf_keys.positive(checkpoint, "attention.sliding_window") if has_window else 0
        theta = gguf_keys.number(checkpoint, "rope.freq_base_swa", shape.rope.theta)
    else:
        require(checkpoint, "attention_bias", (False,), False)
        require(checkpoint, "norm_topk_prob", (True,), True)
        names, sizes = _of_config(checkpoint, "moe_intermediate_size")
        experts = (names, replace(sizes, normalized=True))
        # Without a list all layers see everything.
        listed = checkpoint.metadata.get("layer_types") is not None
        has_window = listed and len(global_layers(checkpoint, shape.layers, _GLOBAL_EVERY)) < shape.layers
        window = positive(checkpoint, "sliding_window", default=1024) if has_window else 0
        theta = rope_theta(checkpoint, "rope_theta", default=10000.0, kind=LOCAL)
    kind = Kind(head_norm=True, experts=experts, dense=without_router(checkpoint, experts[0], shape.layers))
    if window:
        everything = global_layers(checkpoint, shape.layers, _GLOBAL_EVERY)
        kind = replace(kind, window=window, open=everything, local=Rope(theta, shape.rope.rotated))
    return plan_of(checkpoint, read_names(checkpoint), shape, kind)


def without_router(checkpoint: Checkpoint, names: ExpertNames, layers: int) -> frozenset[int]:
    """Layers that have no experts. Raises: CheckpointError when no layer has any."""
    dense = frozenset(i for i in range(layers) if names.router.format(i=i) not in checkpoint.tensors)
    if len(dense) == layers:
        raise CheckpointError(f"The model '{checkpoint.path}' has no tensor '{names.router.format(i=0)}'.")
    return dense


def gguf_sizes(
    checkpoint: Checkpoint, *, ffn: str = "feed_forward_length", normalized: bool = True
) -> ExpertSizes:
    """Raises: CheckpointError when a size is missing or out of range."""
    return ExpertSizes(
        count=gguf_keys.positive(checkpoint, "expert_count"),
        used=gguf_keys.positive(checkpoint, "expert_used_count"),
        ffn=gguf_keys.positive(checkpoint, ffn),
        normalized=normalized,
    )


def _of_config(checkpoint: Checkpoint, ffn: str) -> tuple[ExpertNames, ExpertSizes]:
    require(checkpoint, "norm_topk_prob", (True, False), False)
    sizes = ExpertSizes(
        count=positive(checkpoint, "num_experts", "num_local_experts"),
        used=positive(checkpoint, "num_experts_per_tok"),
        ffn=positive(checkpoint, ffn),
        normalized=bool(checkpoint.metadata.get("norm_topk_prob")),
    )
    return _names(checkpoint, sizes), sizes


def _names(checkpoint: Checkpoint, sizes: ExpertSizes) -> ExpertNames:
    """A tensor for each expert's matrix, or all in two, as outputs x inputs or the other way."""
    mixture = f"{prefix_of(checkpoint, 'embed_tokens.weight')}layers.{{i}}.mlp."
    up, down = f"{mixture}experts.gate_up_proj", f"{mixture}experts.down_proj"
    if up.format(i=0) in checkpoint.tensors:
        hidden = positive(checkpoint, "hidden_size")
        turned = (hidden, sizes.ffn) != checkpoint.tensor(down.format(i=0)).shape[1:]
        if hidden == sizes.ffn:  # then the other tells
            turned = checkpoint.tensor(up.format(i=0)).shape[1] == hidden
        return ExpertNames(
            f"{mixture}gate.weight", up, down, fused=True, transposed=turned, up_transposed=turned
        )
    return ExpertNames(
        router=f"{mixture}gate.weight",
        gate=f"{mixture}experts.{{e}}.gate_proj.weight",
        up=f"{mixture}experts.{{e}}.up_proj.weight",
        down=f"{mixture}experts.{{e}}.down_proj.weight",
    )
