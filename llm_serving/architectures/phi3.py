"""Phi 3 and Phi 4 mini: fused matrices, LongRoPE (Abdin et al. 2024)."""

from __future__ import annotations

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, describe_decoder
from llm_serving.architectures.decoder_shape import Defaults
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(context=4096)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for unknown rotary scaling, or a window that is no positive integer."""
    kind = Kind(fused_inputs=True, fused_gates=True, window=window_of(checkpoint, _DEFAULTS))
    return describe_decoder(checkpoint, kind, _DEFAULTS)


def window_of(checkpoint: Checkpoint, defaults: Defaults) -> int:
    """0 where it would hide nothing. Raises: CheckpointError unless it is a positive integer."""
    if checkpoint.format == "gguf":
        context = gguf_keys.positive(checkpoint, "context_length", defaults.context)
        has_window = not gguf_keys.is_zero(checkpoint, "attention.sliding_window")
        window = gguf_keys.positive(checkpoint, "attention.sliding_window") if has_window else context
    else:
        context = config_json.positive(checkpoint, "max_position_embeddings", default=defaults.context)
        has_window = checkpoint.metadata.get("sliding_window") is not None
        window = config_json.positive(checkpoint, "sliding_window") if has_window else context
    return window if window < context else 0
