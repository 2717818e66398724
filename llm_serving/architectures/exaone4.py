"""EXAONE 4: norms behind each part and none before, normed heads (LG AI Research 2025).

The large model has windows in three of four layers, and the others are not told positions.
"""

from __future__ import annotations

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import GGUF_NORMS_BEHIND, Defaults, read_names, read_shape
from llm_serving.architectures.layer_kinds import every, global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_GLOBAL_EVERY = 4  # layers; the last of four sees everything


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for layers that predict, or a window that is no positive integer."""
    names, behind = read_names(checkpoint), GGUF_NORMS_BEHIND
    shape = read_shape(checkpoint, Defaults())
    if checkpoint.format == "gguf":
        if not gguf_keys.is_zero(checkpoint, "nextn_predict_layers"):
            raise gguf_keys.problem(checkpoint, "nextn_predict_layers", "there", "it is not supported")
        has_window = not gguf_keys.is_zero(checkpoint, "attention.sliding_window")
        window = gguf_keys.positive(checkpoint, "attention.sliding_window") if has_window else 0
    else:
        behind = (names.ffn_norm, names.ffn_norm.replace("post_attention", "post_feedforward"))
        has_window = checkpoint.metadata.get("sliding_window") is not None
        window = config_json.positive(checkpoint, "sliding_window") if has_window else 0
    everything = _global_layers(checkpoint, shape.layers) if window else frozenset()
    kind = Kind(
        head_norm=True,
        norms_before=False,
        norms_behind=behind,
        window=window,
        open=everything,
        still=everything,
    )
    return plan_of(checkpoint, names, shape, kind)


def _global_layers(checkpoint: Checkpoint, layers: int) -> frozenset[int]:
    """Raises: CheckpointError for a pattern that is none."""
    pattern = checkpoint.metadata.get("sliding_window_pattern")
    if checkpoint.metadata.get("layer_types") is None and isinstance(pattern, str):  # such as LLLG
        return every(max(1, len(pattern)), layers)
    return global_layers(checkpoint, layers, _GLOBAL_EVERY)
