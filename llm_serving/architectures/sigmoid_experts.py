"""Mixtures whose experts are scored by sigmoid, where corrected scores choose: dots.llm1, MiniMax M2.

As in DeepSeek V3 (DeepSeek-AI 2024), behind attention with keys and values of its own.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, deepseek_gguf
from llm_serving.architectures.decoder import Kind
from llm_serving.architectures.decoder_experts import block_sparse_experts
from llm_serving.architectures.decoder_shape import Defaults, Names, read_names, read_shape
from llm_serving.architectures.deepseek import groups_of
from llm_serving.architectures.experts import ExpertNames, ExpertSizes
from llm_serving.architectures.layer_kinds import GLOBAL
from llm_serving.architectures.shared_experts import (
    believed_scale,
    expert_names,
    expert_sizes,
    mixture_plan,
    shared_names,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ExpertGroups, ModelPlan

_DOTS = Defaults(epsilon=1e-6)
_MINIMAX = Defaults(theta=5000000.0, epsilon=1e-6, context=196608)
_GROUPS = ExpertGroups(1, 1, best=2)


def describe_dots(checkpoint: Checkpoint) -> ModelPlan:
    """Normed heads, the first layers dense (rednote-hilab 2025).

    Raises: CheckpointError for biases, windows, or a size that is missing.
    """
    names, shape = read_names(checkpoint), read_shape(checkpoint, _DOTS)
    if checkpoint.format == "gguf":
        experts = deepseek_gguf.experts_of(checkpoint)
    else:
        config_json.require(checkpoint, "attention_bias", (False,), False)
        config_json.require(checkpoint, "layer_types", (None, [GLOBAL] * shape.layers), None)
        whole = config_json.positive(checkpoint, "max_window_layers", default=shape.layers)
        if checkpoint.metadata.get("layer_types") is None and whole < shape.layers:
            config_json.require(checkpoint, "sliding_window", (None,), None)
        experts = (
            corrected_names(names, "gate.e_score_correction_bias"),
            corrected_sizes(checkpoint, "n_routed_experts", scale=1.0, is_normalized=False),
        )
    return mixture_plan(checkpoint, names, shape, Kind(head_norm=True, experts=experts))


def describe_minimax(checkpoint: Checkpoint) -> ModelPlan:
    """MiniMax M2 to M2.5: all heads are normed at once, half of each rotates (MiniMax 2025).

    Raises: CheckpointError for a size that is missing.
    """
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        shape = read_shape(checkpoint, _MINIMAX)
        own, sizes = deepseek_gguf.experts_of(checkpoint)
        sizes = replace(sizes, normalized=True)
    else:
        shape = read_shape(checkpoint, replace(_MINIMAX, rotated=_rotated(checkpoint)))
        own, sizes = block_sparse_experts(checkpoint)
        own = replace(own, correction=own.router.replace("gate.weight", "e_score_correction_bias"))
        sizes = replace(sizes, scores="sigmoid")
    kind = Kind(whole_norm=True, experts=(own, sizes))
    return mixture_plan(checkpoint, names, shape, kind)


def corrected_names(names: Names, correction: str) -> ExpertNames:
    """Of a directory, as DeepSeek calls them; `correction` is beside a dense layer's matrices."""
    own = names.gate.replace("gate_proj", correction)
    return replace(expert_names(names, shared_names(names)), correction=own)


def corrected_sizes(checkpoint: Checkpoint, count: str, *, scale: float, is_normalized: bool) -> ExpertSizes:
    """Of a directory with the number of experts under `count`; `scale` and the other where it does not say.

    Raises: CheckpointError for a size that is missing, or groups of too few experts.
    """
    sizes = expert_sizes(checkpoint, count, "moe_intermediate_size", is_normalized)
    given = config_json.number(checkpoint, "routed_scaling_factor", default=scale)
    groups = groups_of(checkpoint, _GROUPS, sizes)
    return replace(sizes, scores="sigmoid", scale=believed_scale(checkpoint, given), groups=groups)


def _rotated(checkpoint: Checkpoint) -> float:
    """The share of a head. Raises: CheckpointError for sizes that are no positive integers."""
    if "rotary_dim" not in checkpoint.metadata:
        return _MINIMAX.rotated
    head = config_json.positive(checkpoint, "head_dim", default=128)
    return config_json.positive(checkpoint, "rotary_dim") / head
