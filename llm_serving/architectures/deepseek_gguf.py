"""What GGUF files of `deepseek2` say: DeepSeek V2, V3 and R1, GLM-4.7-Flash."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import gguf_keys
from llm_serving.architectures.decoder_experts import GGUF_NAMES, gguf_sizes
from llm_serving.architectures.decoder_shape import Shape
from llm_serving.architectures.experts import ExpertNames, ExpertSizes, fit_groups
from llm_serving.architectures.latent_attention import LatentNames, LatentSizes
from llm_serving.architectures.shared_experts import GGUF_CORRECTION, GGUF_SHARED
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops
from llm_serving.native.rope import yarn_magnitude

_SOFTMAX, _SIGMOID = 1, 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_*
_PER_SHARE = 0.1  # the converter writes a tenth of `mscale_all_dim`
_MULTIPLE = 32
_MOST_SCALE = 1e3


def shape_of(checkpoint: Checkpoint) -> tuple[Shape, LatentSizes]:
    """Raises: CheckpointError for a size that is missing, out of range, or not one that the engine runs."""
    heads = gguf_keys.positive(checkpoint, "attention.head_count")
    rotated = multiple(checkpoint, "rope.dimension_count")
    # Older files have heads as they are, newer ones the shared key in their place.
    query = gguf_keys.positive(checkpoint, _own(checkpoint, "attention.key_length"))
    if query <= rotated or (query - rotated) % _MULTIPLE:
        key = _own(checkpoint, "attention.key_length")
        raise gguf_keys.problem(checkpoint, key, query, f"{rotated} and a multiple of {_MULTIPLE} are needed")
    has_query_latent = bool(checkpoint.hyper("attention.q_lora_rank"))
    rope, sharpness = _rope(checkpoint, rotated)
    sizes = LatentSizes(
        heads=heads,
        latent=multiple(checkpoint, "attention.kv_lora_rank"),
        plain=query - rotated,
        rotated=rotated,
        values=gguf_keys.positive(checkpoint, _own(checkpoint, "attention.value_length")),
        query_latent=multiple(checkpoint, "attention.q_lora_rank") if has_query_latent else 0,
        epsilon=gguf_keys.number(checkpoint, "attention.layer_norm_rms_epsilon", 1e-6),
        scale=query**-0.5 * sharpness**2,
    )
    shape = Shape(
        hidden=multiple(checkpoint, "embedding_length"),
        layers=gguf_keys.without_further(checkpoint, gguf_keys.num_layers(checkpoint)),
        heads=heads,
        kv_heads=1,
        head_dim=sizes.key,
        ffn=multiple(checkpoint, "feed_forward_length"),
        context=gguf_keys.positive(checkpoint, "context_length", 2048),
        epsilon=sizes.epsilon,
        rope=rope,
    )
    return shape, sizes


def names_of(checkpoint: Checkpoint) -> LatentNames:
    """By the tensors of the first layer, and whether queries have a latent."""
    has_query_latent = bool(checkpoint.hyper("attention.q_lora_rank"))
    is_split = "blk.0.attn_k_b.weight" in checkpoint.tensors
    return LatentNames(
        query_down="blk.{i}.attn_q_a.weight" if has_query_latent else None,
        query_norm="blk.{i}.attn_q_a_norm.weight" if has_query_latent else None,
        query_up=f"blk.{{i}}.attn_q{'_b' if has_query_latent else ''}.weight",
        latent="blk.{i}.attn_kv_a_mqa.weight",
        latent_norm="blk.{i}.attn_kv_a_norm.weight",
        expand=None if is_split else "blk.{i}.attn_kv_b.weight",
        expand_keys="blk.{i}.attn_k_b.weight",
        expand_values="blk.{i}.attn_v_b.weight",
    )


def experts_of(checkpoint: Checkpoint) -> tuple[ExpertNames, ExpertSizes]:
    """Raises: CheckpointError for scores or groups that are not known, or a size that is missing."""
    names = replace(GGUF_NAMES, shared=GGUF_SHARED, correction=GGUF_CORRECTION)
    # Files of V2 do not say how experts are scored. Corrections came with sigmoid.
    is_corrected = any(name.endswith("exp_probs_b.bias") for name in checkpoint.tensors)
    scoring = checkpoint.hyper("expert_gating_func", _SIGMOID if is_corrected else _SOFTMAX)
    if scoring not in (_SOFTMAX, _SIGMOID):
        wanted = f"supported: {_SOFTMAX} and {_SIGMOID}"
        raise gguf_keys.problem(checkpoint, "expert_gating_func", scoring, wanted)
    is_normalized = bool(checkpoint.hyper("expert_weights_norm", False))
    sizes = gguf_sizes(checkpoint, ffn="expert_feed_forward_length", normalized=is_normalized)
    scale = gguf_keys.number(checkpoint, "expert_weights_scale", 1.0)
    if scale > _MOST_SCALE:
        raise gguf_keys.problem(checkpoint, "expert_weights_scale", scale, "no model's is that large")
    scores = "sigmoid" if scoring == _SIGMOID else "softmax"
    return names, replace(sizes, scores=scores, scale=scale, groups=_groups(checkpoint, sizes, scores))


def _groups(checkpoint: Checkpoint, sizes: ExpertSizes, scores: str) -> ops.ExpertGroups | None:
    count = gguf_keys.positive(checkpoint, "expert_group_count", 1)
    used = gguf_keys.positive(checkpoint, "expert_group_used_count", 1)
    groups = ops.ExpertGroups(count, used, best=2 if scores == "sigmoid" else 1)
    if count == 1:
        return None
    if not fit_groups(groups, sizes.count, sizes.used):
        wanted = f"{sizes.used} of {sizes.count} experts cannot be chosen from {used} of so many groups"
        raise gguf_keys.problem(checkpoint, "expert_group_count", count, wanted)
    return groups


def _rope(checkpoint: Checkpoint, rotated: int) -> tuple[ops.Rope, float]:
    """Rotary positions, and what YaRN multiplies queries and keys with, each.

    With `yarn_log_multiplier` the latter replaces what rotated parts are multiplied with.
    """
    rope = gguf_keys.rope(checkpoint, rotated)
    if not checkpoint.hyper("rope.scaling.yarn_log_multiplier") or not rope.factors:
        return rope, 1.0
    share = gguf_keys.number(checkpoint, "rope.scaling.yarn_log_multiplier", _PER_SHARE) / _PER_SHARE
    factor = gguf_keys.number(checkpoint, "rope.scaling.factor", 1.0)
    magnitude = gguf_keys.number(checkpoint, "rope.scaling.attn_factor", 1.0)
    return replace(rope, magnitude=magnitude), yarn_magnitude(factor, share)


def _own(checkpoint: Checkpoint, key: str) -> str:
    return f"{key}_mla" if checkpoint.hyper(f"{key}_mla") is not None else key


def multiple(checkpoint: Checkpoint, key: str) -> int:
    """A size in a file. Raises: CheckpointError unless packed weights can have it."""
    size = gguf_keys.positive(checkpoint, key)
    if size % _MULTIPLE:
        raise gguf_keys.problem(checkpoint, key, size, f"a multiple of {_MULTIPLE} is needed")
    return size
