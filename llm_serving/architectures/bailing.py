"""Ling 2.0 and Sarvam: experts in groups, normed heads, of which half or all rotates (Ling Team 2025).

Ling 1 has neither, and experts scored by softmax.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, deepseek_gguf, gguf_keys
from llm_serving.architectures.decoder import Kind
from llm_serving.architectures.decoder_shape import Defaults, Names, head_of, read_names, read_shape
from llm_serving.architectures.deepseek import groups_of
from llm_serving.architectures.experts import ExpertSizes
from llm_serving.architectures.shared_experts import (
    believed_scale,
    expert_names,
    expert_sizes,
    mixture_plan,
    shared_names,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ExpertGroups, ModelPlan

_LING = Defaults(theta=600000.0, epsilon=1e-6, context=32768, rotated=0.5)
_LING_1 = Defaults(context=16384)
_SARVAM = Defaults(theta=8000000.0, epsilon=1e-6, context=131072)
_GROUPS = ExpertGroups(1, 1, best=2)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Ling and Ring, mini and flash, lite and plus. Raises: CheckpointError for anything that is not run."""
    if checkpoint.format != "gguf":
        # Ling 1 goes by the same name, and does not say that experts are scored by softmax.
        if checkpoint.architecture == "bailing_moe" and checkpoint.metadata.get("score_function") is None:
            return _describe_1(checkpoint)
        config_json.require(checkpoint, "score_function", ("sigmoid",), "sigmoid")
    return _describe(checkpoint, _LING)


def describe_sarvam(checkpoint: Checkpoint) -> ModelPlan:
    """A directory of Sarvam (Sarvam AI 2026); GGUF files call it bailingmoe2. Raises: as `describe`."""
    return _describe(checkpoint, _SARVAM)


def _describe(checkpoint: Checkpoint, defaults: Defaults) -> ModelPlan:
    shape = read_shape(checkpoint, defaults)
    if checkpoint.format == "gguf":
        names = read_names(checkpoint)
        experts = deepseek_gguf.experts_of(checkpoint)
        shape = replace(shape, layers=gguf_keys.without_further(checkpoint, shape.layers))
    else:
        _require_plain(checkpoint)
        names = _names(checkpoint)
        correction = names.gate.replace("gate_proj", "gate.expert_bias")
        experts = (
            replace(expert_names(names, shared_names(names)), correction=correction),
            _sizes(checkpoint),
        )
    has_norms = f"{names.query_norm.format(i=0)}.weight" in checkpoint.tensors
    kind = Kind(fused_inputs=True, head_norm=has_norms, experts=experts)
    return mixture_plan(checkpoint, names, shape, kind)


def _describe_1(checkpoint: Checkpoint) -> ModelPlan:
    _require_plain(checkpoint)
    names, sizes = _names(checkpoint), expert_sizes(checkpoint, "num_experts", "moe_intermediate_size", True)
    kind = Kind(fused_inputs=True, experts=(expert_names(names, shared_names(names)), sizes))
    return mixture_plan(checkpoint, names, read_shape(checkpoint, _LING_1), kind)


def _require_plain(checkpoint: Checkpoint) -> None:
    for key in ("use_bias", "use_qkv_bias", "attention_bias", "norm_head", "multi_gate"):
        config_json.require(checkpoint, key, (False, None), False)


def _names(checkpoint: Checkpoint) -> Names:
    prefix = config_json.prefix_of(checkpoint, "word_embeddings.weight")
    layer = prefix + "layers.{i}."
    return Names(
        words=f"{prefix}word_embeddings",
        input_norm=f"{layer}input_layernorm",
        query="",
        key="",
        value="",
        query_norm=f"{layer}attention.query_layernorm",
        key_norm=f"{layer}attention.key_layernorm",
        output=f"{layer}attention.dense",
        ffn_norm=f"{layer}post_attention_layernorm",
        gate=f"{layer}mlp.gate_proj",
        up=f"{layer}mlp.up_proj",
        down=f"{layer}mlp.down_proj",
        norm=f"{prefix}norm",
        head=head_of(checkpoint) or "lm_head",
        qkv=f"{layer}attention.query_key_value",
        gate_up="",
    )


def _sizes(checkpoint: Checkpoint) -> ExpertSizes:
    config_json.require(checkpoint, "norm_topk_prob", (True, False), True)
    scale = config_json.number(checkpoint, "routed_scaling_factor", default=2.5)
    sizes = ExpertSizes(
        count=config_json.positive(checkpoint, "num_experts", "n_routed_experts"),
        used=config_json.positive(checkpoint, "num_experts_per_tok"),
        ffn=config_json.positive(checkpoint, "moe_intermediate_size"),
        normalized=bool(checkpoint.metadata.get("norm_topk_prob", True)),
        scores="sigmoid",
        scale=believed_scale(checkpoint, scale),
    )
    return replace(sizes, groups=groups_of(checkpoint, _GROUPS, sizes))
