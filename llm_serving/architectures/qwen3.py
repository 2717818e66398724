"""Qwen3, dense: no biases; heads of queries and keys are normed before they rotate (Yang et al. 2025)."""

from __future__ import annotations

from llm_serving.architectures.decoder import describe_decoder
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan


def describe(checkpoint: Checkpoint) -> ModelPlan:
    return describe_decoder(checkpoint, interleaved=False, qkv_bias=False, head_norm=True)
