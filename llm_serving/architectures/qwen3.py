"""Qwen3, dense: no biases; heads of queries and keys are normed before they rotate (Yang et al. 2025)."""

from __future__ import annotations

from llm_serving.architectures.config_json import require
from llm_serving.architectures.decoder import Kind, describe_decoder
from llm_serving.architectures.decoder_shape import Defaults
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

DEFAULTS = Defaults(theta=1000000.0, epsilon=1e-6, context=32768)


def require_plain(checkpoint: Checkpoint) -> None:
    """Raises: CheckpointError for a directory with biases or sliding windows."""
    if checkpoint.format == "huggingface":
        require(checkpoint, "use_sliding_window", (False,), False)
        require(checkpoint, "attention_bias", (False,), False)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases or sliding windows."""
    require_plain(checkpoint)
    return describe_decoder(checkpoint, Kind(head_norm=True), DEFAULTS)
