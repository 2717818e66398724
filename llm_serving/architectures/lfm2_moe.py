"""LFM2-MoE: LFM2 with mixtures of experts in most layers, chosen by corrected sigmoids (Liquid AI 2025)."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, gguf_keys, lfm2
from llm_serving.architectures.decoder import Kind
from llm_serving.architectures.decoder_experts import GGUF_NAMES, gguf_sizes
from llm_serving.architectures.decoder_shape import Names
from llm_serving.architectures.experts import ExpertNames, ExpertSizes
from llm_serving.architectures.shared_experts import GGUF_CORRECTION, SIGMOID, believed_scale, with_shared
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for what LFM2 refuses, another routing, or a size that is missing."""

    def kind(names: Names, layers: int) -> Kind:
        experts, sizes = (_of_gguf if checkpoint.format == "gguf" else _of_config)(checkpoint, names)
        sizes, dense = with_shared(checkpoint, experts, sizes, layers)
        if experts.correction and experts.correction.format(i=layers - 1) not in checkpoint.tensors:
            experts = replace(experts, correction=None)
        return Kind(experts=(experts, sizes), dense=dense)

    return lfm2.hybrid_plan(checkpoint, kind)


def _of_gguf(checkpoint: Checkpoint, names: Names) -> tuple[ExpertNames, ExpertSizes]:
    gating = checkpoint.hyper("expert_gating_func", SIGMOID)
    if gating != SIGMOID:
        raise gguf_keys.problem(checkpoint, "expert_gating_func", gating, f"supported: {SIGMOID}")
    scale = believed_scale(checkpoint, gguf_keys.number(checkpoint, "expert_weights_scale", 1.0))
    sizes = gguf_sizes(checkpoint, ffn="expert_feed_forward_length")
    return replace(GGUF_NAMES, correction=GGUF_CORRECTION), replace(sizes, scores="sigmoid", scale=scale)


def _of_config(checkpoint: Checkpoint, names: Names) -> tuple[ExpertNames, ExpertSizes]:
    """Directories have each expert's matrices, or all in two tensors."""
    for key in ("norm_topk_prob", "use_expert_bias"):
        config_json.require(checkpoint, key, (True, False), True)
    part = names.gate.removesuffix("w1")
    is_corrected = bool(checkpoint.metadata.get("use_expert_bias", True))
    experts = ExpertNames(
        router=f"{part}gate.weight",
        gate=f"{part}experts.{{e}}.w1.weight",
        up=f"{part}experts.{{e}}.w3.weight",
        down=f"{part}experts.{{e}}.w2.weight",
        correction=f"{part}expert_bias" if is_corrected else None,
    )
    if any(name.endswith("feed_forward.experts.gate_up_proj") for name in checkpoint.tensors):
        up, down = f"{part}experts.gate_up_proj", f"{part}experts.down_proj"
        experts = replace(experts, gate=None, up=up, down=down, fused=True)
    scale = config_json.number(checkpoint, "routed_scaling_factor", default=1.0)
    sizes = ExpertSizes(
        count=config_json.positive(checkpoint, "num_experts"),
        used=config_json.positive(checkpoint, "num_experts_per_tok"),
        ffn=config_json.positive(checkpoint, "moe_intermediate_size"),
        normalized=bool(checkpoint.metadata.get("norm_topk_prob", True)),
        scores="sigmoid",
        scale=believed_scale(checkpoint, scale),
    )
    return experts, sizes
