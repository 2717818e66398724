"""Qwen2 and Qwen2.5: biases on queries, keys and values; rows stored as rotary halves."""

from __future__ import annotations

from llm_serving.architectures.config_json import require
from llm_serving.architectures.decoder import Kind, describe_decoder
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for sliding windows."""
    if checkpoint.format == "huggingface":
        require(checkpoint, "use_sliding_window", (False,), False)
    return describe_decoder(checkpoint, Kind(qkv_bias=True))
