"""EXAONE 4: norms behind each part and none before, normed heads (LG AI Research 2025).

The large model has windows in three of four layers, and the others are not told positions. K-EXAONE is a
mixture of experts with the usual norms.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, deepseek_gguf, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import GGUF_NORMS_BEHIND, Defaults, read_names, read_shape
from llm_serving.architectures.layer_kinds import every, global_layers
from llm_serving.architectures.shared_experts import mixture_plan
from llm_serving.architectures.sigmoid_experts import corrected_names, corrected_sizes
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_GLOBAL_EVERY = 4  # layers; the last of four sees everything


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for layers that predict, or a window that is no positive integer."""
    names, shape = read_names(checkpoint), read_shape(checkpoint, Defaults())
    if checkpoint.format == "gguf":
        behind = GGUF_NORMS_BEHIND
        if not gguf_keys.is_zero(checkpoint, "nextn_predict_layers"):
            raise gguf_keys.problem(checkpoint, "nextn_predict_layers", "there", "it is not supported")
    else:
        behind = (names.ffn_norm, names.ffn_norm.replace("post_attention", "post_feedforward"))
    kind = Kind(head_norm=True, norms_before=False, norms_behind=behind)
    return plan_of(checkpoint, names, shape, _with_windows(checkpoint, kind, shape.layers))


def describe_moe(checkpoint: Checkpoint) -> ModelPlan:
    """Experts as in DeepSeek V3, the first layers dense (LG AI Research 2026). Raises: as `describe`."""
    names, shape = read_names(checkpoint), read_shape(checkpoint, Defaults())
    if checkpoint.format == "gguf":
        shape = replace(shape, layers=gguf_keys.without_further(checkpoint, shape.layers))
        experts = deepseek_gguf.experts_of(checkpoint)
    else:
        experts = (
            corrected_names(names, "e_score_correction_bias"),
            corrected_sizes(checkpoint, "num_experts", scale=2.5, is_normalized=True),
        )
    kind = Kind(head_norm=True, experts=experts)
    return mixture_plan(checkpoint, names, shape, _with_windows(checkpoint, kind, shape.layers))


def _with_windows(checkpoint: Checkpoint, kind: Kind, layers: int) -> Kind:
    """Raises: CheckpointError for a window that is no positive integer, or a pattern that is none."""
    if checkpoint.format == "gguf":
        has_window = not gguf_keys.is_zero(checkpoint, "attention.sliding_window")
        window = gguf_keys.positive(checkpoint, "attention.sliding_window") if has_window else 0
    else:
        has_window = checkpoint.metadata.get("sliding_window") is not None
        window = config_json.positive(checkpoint, "sliding_window") if has_window else 0
    everything = _global_layers(checkpoint, layers) if window else frozenset()
    return replace(kind, window=window, open=everything, still=everything)


def _global_layers(checkpoint: Checkpoint, layers: int) -> frozenset[int]:
    """Raises: CheckpointError for a pattern that is none."""
    pattern = checkpoint.metadata.get("sliding_window_pattern")
    if checkpoint.metadata.get("layer_types") is None and isinstance(pattern, str):  # such as LLLG
        return every(max(1, len(pattern)), layers)
    return global_layers(checkpoint, layers, _GLOBAL_EVERY)
