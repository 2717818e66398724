"""Mixtures with an expert that works on all tokens (Dai et al. 2024): Qwen2, GLM-4.5, ERNIE 4.5, Hunyuan.

The first layers of some are dense: those of which the file has no router.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, gguf_keys, hunyuan
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_experts import GGUF_NAMES, gguf_sizes, without_router
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.architectures.experts import ExpertNames, ExpertSizes, SharedNames
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

GGUF_SHARED = SharedNames(
    gate="blk.{i}.ffn_gate_shexp.weight",
    up="blk.{i}.ffn_up_shexp.weight",
    down="blk.{i}.ffn_down_shexp.weight",
)
GGUF_CORRECTION = "blk.{i}.exp_probs_b.bias"
_QWEN = Defaults(theta=1000000.0, epsilon=1e-6, context=32768)
_GLM = Defaults(context=131072, rotated=0.5)
_ERNIE = Defaults(theta=500000.0, context=131072)
SIGMOID = 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID
_MOST = 1e3


def describe_qwen2_moe(checkpoint: Checkpoint) -> ModelPlan:
    """What the shared expert adds is opened by a gate of its own (Yang et al. 2024).

    Raises: CheckpointError for sliding windows, or a size that is missing.
    """
    own = read_names(checkpoint)
    if checkpoint.format == "gguf":
        shared = replace(GGUF_SHARED, door="blk.{i}.ffn_gate_inp_shexp.weight")
        names = replace(GGUF_NAMES, shared=shared)
        sizes = gguf_sizes(checkpoint, ffn=_expert_ffn(checkpoint), normalized=False)
        has_bias = True
    else:
        config_json.require(checkpoint, "use_sliding_window", (False,), False)
        shared = shared_names(own, "shared_expert", door="shared_expert_gate")
        names, sizes = (
            expert_names(own, shared),
            expert_sizes(checkpoint, "num_experts", "moe_intermediate_size", False),
        )
        has_bias = bool(checkpoint.metadata.get("qkv_bias", True))
    kind = Kind(qkv_bias=has_bias, experts=(names, replace(sizes, has_door=True)))
    return mixture_plan(checkpoint, own, read_shape(checkpoint, _QWEN), kind)


def describe_glm4_moe(checkpoint: Checkpoint) -> ModelPlan:
    """Experts are scored by sigmoid, and corrected scores choose (GLM-4.5 Team 2025).

    Raises: CheckpointError for experts in groups, or a size that is missing.
    """
    own, shape = read_names(checkpoint), read_shape(checkpoint, _GLM)
    if checkpoint.format == "gguf":
        own = replace(own, ffn_norm="blk.{i}.post_attention_norm")
        shape = replace(shape, layers=gguf_keys.without_further(checkpoint, shape.layers))
        if checkpoint.hyper("expert_gating_func", SIGMOID) != SIGMOID:
            raise gguf_keys.problem(checkpoint, "expert_gating_func", "another", f"supported: {SIGMOID}")
        names = replace(GGUF_NAMES, shared=GGUF_SHARED, correction=GGUF_CORRECTION)
        is_normalized = bool(checkpoint.hyper("expert_weights_norm", False))
        sizes = gguf_sizes(checkpoint, ffn="expert_feed_forward_length", normalized=is_normalized)
        scale = gguf_keys.number(checkpoint, "expert_weights_scale", 1.0)
    else:
        config_json.require(checkpoint, "n_group", (1, None), 1)
        shared = shared_names(own, "shared_experts")
        correction = own.gate.replace("gate_proj", "gate.e_score_correction_bias")
        names = replace(expert_names(own, shared), correction=correction)
        sizes = expert_sizes(checkpoint, "n_routed_experts", "moe_intermediate_size", True)
        scale = config_json.number(checkpoint, "routed_scaling_factor", default=1.0)
    scale = believed_scale(checkpoint, scale)
    has_bias = f"{own.query.format(i=0)}.bias" in checkpoint.tensors
    has_norms = f"{own.query_norm.format(i=0)}.weight" in checkpoint.tensors
    sizes = replace(sizes, scores="sigmoid", scale=scale)
    kind = Kind(qkv_bias=has_bias, head_norm=has_norms, experts=(names, sizes))
    return mixture_plan(checkpoint, own, shape, kind)


def describe_ernie(checkpoint: Checkpoint) -> ModelPlan:
    """Corrected scores choose (Baidu 2025). Raises: CheckpointError for biases, or a size that is missing."""
    own = read_names(checkpoint)
    if checkpoint.format == "gguf":
        names = replace(GGUF_NAMES, shared=GGUF_SHARED, correction=GGUF_CORRECTION)
        sizes = gguf_sizes(checkpoint, ffn="expert_feed_forward_length")
    else:
        config_json.require(checkpoint, "use_bias", (False, None), False)
        correction = own.gate.replace("gate_proj", "moe_statics.e_score_correction_bias")
        names = replace(expert_names(own, shared_names(own, "shared_experts")), correction=correction)
        sizes = ExpertSizes(
            count=config_json.positive(checkpoint, "moe_num_experts", "num_experts"),
            used=config_json.positive(checkpoint, "moe_k", "num_experts_per_tok"),
            ffn=config_json.positive(checkpoint, "moe_intermediate_size"),
            normalized=True,
        )
    kind = Kind(interleaved=True, experts=(names, sizes))
    return mixture_plan(checkpoint, own, read_shape(checkpoint, _ERNIE), kind)


def describe_hunyuan(checkpoint: Checkpoint) -> ModelPlan:
    """Hunyuan A13B: heads are normed after they rotate, as in dense ones (Tencent 2025).

    Raises: CheckpointError for what those refuse, or layers that use experts in other numbers.
    """
    own, shape = hunyuan.names_and_shape(checkpoint)
    if checkpoint.format == "gguf":
        names = replace(GGUF_NAMES, shared=GGUF_SHARED)
        sizes = gguf_sizes(checkpoint, ffn="expert_feed_forward_length")
    else:
        shared = shared_names(own, "shared_mlp")
        names = replace(expert_names(own, shared), router=own.gate.replace("gate_proj", "gate.wg.weight"))
        sizes = ExpertSizes(
            count=_same(checkpoint, "num_experts"),
            used=_same(checkpoint, "moe_topk"),
            ffn=config_json.positive(checkpoint, "intermediate_size"),
            normalized=True,
        )
    return mixture_plan(checkpoint, own, shape, Kind(rotated_norm=True, experts=(names, sizes)))


def believed_scale(checkpoint: Checkpoint, scale: float) -> float:
    """Raises: CheckpointError for a scale of experts' weights that no model has."""
    if scale > _MOST:
        raise CheckpointError(
            f"Weights of experts of '{checkpoint.path}' are scaled by {scale:g}: no model's are."
        )
    return scale


def with_shared(
    checkpoint: Checkpoint, names: ExpertNames, sizes: ExpertSizes, layers: int
) -> tuple[ExpertSizes, frozenset[int]]:
    """The sizes with that of the shared expert, by its matrix, and the layers without experts.

    Raises: CheckpointError when no layer has any.
    """
    dense = without_router(checkpoint, names, layers)
    first = next(i for i in range(layers) if i not in dense)
    shared = names.shared
    if shared is None or (up := checkpoint.tensors.get(shared.up.format(i=first))) is None:
        return replace(sizes, averaged=False), dense
    rows = up.shape[0] // (1 if shared.gate else 2)
    if rows % 32 or not rows:
        raise CheckpointError(
            f"The shared expert of '{checkpoint.path}' is {rows} wide; 32 must divide that."
        )
    return replace(sizes, shared=rows), dense


def mixture_plan(checkpoint: Checkpoint, own: Names, shape: Shape, kind: Kind) -> ModelPlan:
    """With what the tensors tell of the experts. Raises: CheckpointError when no layer has any."""
    assert kind.experts is not None
    names, sizes = kind.experts
    sizes, dense = with_shared(checkpoint, names, sizes, shape.layers)
    names = with_correction(checkpoint, names, shape.layers, dense)
    return plan_of(checkpoint, own, shape, replace(kind, experts=(names, sizes), dense=dense))


def with_correction(
    checkpoint: Checkpoint, names: ExpertNames, layers: int, dense: frozenset[int]
) -> ExpertNames:
    """Without the correction's name where the last layer with experts has none."""
    last = max(i for i in range(layers) if i not in dense)
    has_own = names.correction and names.correction.format(i=last) in checkpoint.tensors
    return names if has_own else replace(names, correction=None)


def shared_names(own: Names, name: str = "shared_experts", door: str | None = None) -> SharedNames:
    """Of the expert for all tokens, as most directories call its matrices; `own` are a dense layer's."""
    mlp = own.gate.replace("gate_proj", "")
    return SharedNames(
        gate=f"{mlp}{name}.gate_proj.weight",
        up=f"{mlp}{name}.up_proj.weight",
        down=f"{mlp}{name}.down_proj.weight",
        door=door and f"{mlp}{door}.weight",
    )


def expert_names(own: Names, shared: SharedNames) -> ExpertNames:
    """The same of all experts, without a correction."""
    mlp = own.gate.replace("gate_proj", "")
    return ExpertNames(
        router=f"{mlp}gate.weight",
        gate=f"{mlp}experts.{{e}}.gate_proj.weight",
        up=f"{mlp}experts.{{e}}.up_proj.weight",
        down=f"{mlp}experts.{{e}}.down_proj.weight",
        shared=shared,
    )


def expert_sizes(checkpoint: Checkpoint, count: str, ffn: str, is_normalized: bool) -> ExpertSizes:
    """Of a directory, by its keys; `is_normalized` where it does not say.

    Raises: CheckpointError for a size that is missing.
    """
    config_json.require(checkpoint, "norm_topk_prob", (True, False), is_normalized)
    return ExpertSizes(
        count=config_json.positive(checkpoint, count),
        used=config_json.positive(checkpoint, "num_experts_per_tok"),
        ffn=config_json.positive(checkpoint, ffn),
        normalized=bool(checkpoint.metadata.get("norm_topk_prob", is_normalized)),
    )


def _expert_ffn(checkpoint: Checkpoint) -> str:
    """The key of a GGUF file; older ones had one for both."""
    key = "expert_feed_forward_length"
    return key if checkpoint.hyper(key) else "feed_forward_length"


def _same(checkpoint: Checkpoint, key: str) -> int:
    """A number for all layers, or as many equal ones. Raises: CheckpointError for others."""
    given: Any = checkpoint.metadata.get(key)
    if isinstance(given, list) and given and all(one == given[0] for one in given):
        given = given[0]
    return config_json.positive(replace(checkpoint, metadata={key: given}), key)
