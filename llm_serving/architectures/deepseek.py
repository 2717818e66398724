"""DeepSeek V2, V3 and R1, GLM-4.7-Flash: latent attention, and experts that are chosen in groups.

DeepSeek-AI 2024 (arXiv 2405.04434, 2412.19437), GLM-4.5 Team 2025.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_serving.architectures import config_json, deepseek_gguf
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import Names, Shape, read_names
from llm_serving.architectures.experts import ExpertNames, ExpertSizes, fit_groups
from llm_serving.architectures.latent_attention import (
    LatentNames,
    LatentSizes,
    check_tensors,
    latent_layer,
    with_buffers,
)
from llm_serving.architectures.shared_experts import (
    expert_names,
    shared_names,
    with_correction,
    with_shared,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.rope import yarn_magnitude

MOST_SCALE = 1e3  # of weights of experts
_MULTIPLE = 32  # inputs that packed weights take together


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a family means where a config.json says nothing."""

    context: int
    scale: float  # of weights of experts
    groups: ops.ExpertGroups  # of experts
    epsilon: float = 1e-6


_V2 = _Defaults(2048, 1.0, ops.ExpertGroups(1, 1, best=1))
_V3 = _Defaults(4096, 2.5, ops.ExpertGroups(8, 4, best=2))
_GLM = _Defaults(202752, 1.8, ops.ExpertGroups(1, 1, best=2), epsilon=1e-5)


def describe_v2(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Experts are scored by softmax; a group of them is as good as its best one.

    Raises: CheckpointError for a size that is missing, or anything that the engine does not run.
    """
    config_json.require(checkpoint, "scoring_func", ("softmax",), "softmax")
    config_json.require(checkpoint, "topk_method", ("greedy", "group_limited_greedy"), "greedy")
    config_json.require(checkpoint, "norm_topk_prob", (False, None), False)
    config_json.require(checkpoint, "mlp_bias", (False,), False)
    sizes = _expert_sizes(checkpoint, _V2)
    if checkpoint.metadata.get("topk_method") == "group_limited_greedy":
        sizes = replace(sizes, groups=groups_of(checkpoint, _V2.groups, sizes))
    return _of_config(checkpoint, sizes, _V2)


def describe_v3(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Experts are scored by sigmoid, corrected scores choose, and a group is as good as its two best ones.

    Raises: as `describe_v2`.
    """
    config_json.require(checkpoint, "scoring_func", ("sigmoid",), "sigmoid")
    config_json.require(checkpoint, "topk_method", ("noaux_tc",), "noaux_tc")
    config_json.require(checkpoint, "norm_topk_prob", (True, False), True)
    family = _GLM if checkpoint.architecture == "glm4_moe_lite" else _V3
    sizes = _expert_sizes(checkpoint, family)
    is_normalized = bool(checkpoint.metadata.get("norm_topk_prob", True))
    groups = groups_of(checkpoint, family.groups, sizes)
    sizes = replace(sizes, scores="sigmoid", normalized=is_normalized, groups=groups)
    return _of_config(checkpoint, sizes, family)


def describe_gguf(checkpoint: Checkpoint) -> ops.ModelPlan:
    """A file of any of them, whether its heads' keys and values are two tensors or one, as in older files.

    Raises: as `describe_v2`.
    """
    names = read_names(checkpoint)
    shape, sizes = deepseek_gguf.shape_of(checkpoint)
    own = deepseek_gguf.names_of(checkpoint)
    return _plan(checkpoint, names, shape, own, sizes, deepseek_gguf.experts_of(checkpoint))


def _of_config(checkpoint: Checkpoint, experts: ExpertSizes, family: _Defaults) -> ops.ModelPlan:
    config_json.require(checkpoint, "hidden_act", ("silu",), "silu")
    config_json.require(checkpoint, "attention_bias", (False,), False)
    config_json.require(checkpoint, "moe_layer_freq", (1,), 1)
    config_json.require(checkpoint, "rope_interleave", (True, False), True)
    names = read_names(checkpoint)
    heads = config_json.positive(checkpoint, "num_attention_heads")
    config_json.require(checkpoint, "num_key_value_heads", (heads, None), heads)
    has_query_latent = checkpoint.metadata.get("q_lora_rank") is not None
    sizes = LatentSizes(
        heads=heads,
        latent=multiple(checkpoint, "kv_lora_rank"),
        plain=multiple(checkpoint, "qk_nope_head_dim"),
        rotated=multiple(checkpoint, "qk_rope_head_dim"),
        values=config_json.positive(checkpoint, "v_head_dim"),
        query_latent=multiple(checkpoint, "q_lora_rank") if has_query_latent else 0,
        in_pairs=bool(checkpoint.metadata.get("rope_interleave", True)),
    )
    rope = config_json.rope(checkpoint, sizes.rotated, 10000.0)
    shape = Shape(
        hidden=multiple(checkpoint, "hidden_size"),
        layers=config_json.num_layers(checkpoint, "num_hidden_layers"),
        heads=heads,
        kv_heads=1,
        head_dim=sizes.key,
        ffn=multiple(checkpoint, "intermediate_size"),
        context=config_json.positive(checkpoint, "max_position_embeddings", default=family.context),
        epsilon=config_json.number(checkpoint, "rms_norm_eps", default=family.epsilon),
        rope=rope,
    )
    sizes = replace(sizes, scale=sizes.query**-0.5 * _sharpness(checkpoint) ** 2)
    correction = names.gate.replace("gate_proj", "gate.e_score_correction_bias")
    routed = replace(expert_names(names, shared_names(names)), correction=correction)
    return _plan(checkpoint, names, shape, latent_names(names, has_query_latent), sizes, (routed, experts))


def _plan(
    checkpoint: Checkpoint,
    names: Names,
    shape: Shape,
    own: LatentNames,
    sizes: LatentSizes,
    experts: tuple[ExpertNames, ExpertSizes],
) -> ops.ModelPlan:
    """Raises: CheckpointError for sizes that do not fit each other or the tensors."""
    if shape.rope.rotated != sizes.rotated:
        raise CheckpointError(
            f"'partial_rotary_factor' of '{checkpoint.path}' rotates {shape.rope.rotated} of {sizes.rotated} "
            "dimensions, and latent attention rotates all that are there for it."
        )
    check_tensors(checkpoint, own, sizes, names.output)
    routed, expert_sizes = experts
    expert_sizes, dense = with_shared(checkpoint, routed, expert_sizes, shape.layers)
    routed = with_correction(checkpoint, routed, shape.layers, dense)
    kind = Kind(experts=(routed, expert_sizes), dense=dense)
    plan = plan_of(
        checkpoint,
        names,
        shape,
        kind,
        lambda i: latent_layer(checkpoint, i, own, sizes, names, shape, kind),
    )
    return with_buffers(plan, sizes)


def _sharpness(checkpoint: Checkpoint) -> float:
    """What YaRN multiplies queries and keys with, each, beside the `magnitude` of what rotates."""
    given = checkpoint.metadata.get("rope_parameters") or checkpoint.metadata.get("rope_scaling") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default" or not given.get("mscale_all_dim"):
        return 1.0
    scaling = replace(checkpoint, metadata=given)
    share = config_json.number(scaling, "mscale_all_dim", default=1.0)
    return yarn_magnitude(config_json.number(scaling, "factor", default=1.0), share)


def latent_names(names: Names, has_query_latent: bool) -> LatentNames:
    """Of a directory, beside what all decoders have."""
    attention = names.query.replace("q_proj", "")
    return LatentNames(
        query_down=f"{attention}q_a_proj.weight" if has_query_latent else None,
        query_norm=f"{attention}q_a_layernorm.weight" if has_query_latent else None,
        query_up=f"{attention}{'q_b_proj' if has_query_latent else 'q_proj'}.weight",
        latent=f"{attention}kv_a_proj_with_mqa.weight",
        latent_norm=f"{attention}kv_a_layernorm.weight",
        expand=f"{attention}kv_b_proj.weight",
    )


def _expert_sizes(checkpoint: Checkpoint, family: _Defaults) -> ExpertSizes:
    scale = config_json.number(checkpoint, "routed_scaling_factor", default=family.scale)
    if scale > MOST_SCALE:
        raise CheckpointError(
            f"'routed_scaling_factor' in the config.json of '{checkpoint.path}' is {scale:g}: no model's is."
        )
    return ExpertSizes(
        count=config_json.positive(checkpoint, "n_routed_experts"),
        used=config_json.positive(checkpoint, "num_experts_per_tok"),
        ffn=multiple(checkpoint, "moe_intermediate_size"),
        scale=scale,
    )


def groups_of(checkpoint: Checkpoint, usual: ops.ExpertGroups, sizes: ExpertSizes) -> ops.ExpertGroups | None:
    """`usual` is meant where a config.json says nothing; None is for a single group.

    Raises: CheckpointError for such that not enough experts are in.
    """
    groups = ops.ExpertGroups(
        count=config_json.positive(checkpoint, "n_group", default=usual.count),
        used=config_json.positive(checkpoint, "topk_group", default=usual.used),
        best=usual.best,
    )
    if groups.count == 1:
        return None
    if not fit_groups(groups, sizes.count, sizes.used):
        raise CheckpointError(
            f"'n_group' and 'topk_group' in the config.json of '{checkpoint.path}' are {groups.count} and "
            f"{groups.used}: {sizes.used} of {sizes.count} experts cannot be chosen so."
        )
    return groups


def multiple(checkpoint: Checkpoint, key: str) -> int:
    """A size in a config.json. Raises: CheckpointError unless packed weights can have it."""
    size = config_json.positive(checkpoint, key)
    if size % _MULTIPLE:
        raise CheckpointError(
            f"'{key}' in the config.json of '{checkpoint.path}' is {size}; "
            f"the engine needs a multiple of {_MULTIPLE}."
        )
    return size
