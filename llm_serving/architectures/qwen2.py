"""Qwen2 and Qwen2.5: biases on queries, keys and values; rows stored as rotary halves."""

from __future__ import annotations

from llm_serving.architectures.decoder import describe_decoder
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan


def describe(checkpoint: Checkpoint) -> ModelPlan:
    return describe_decoder(checkpoint, interleaved=False, qkv_bias=True)
