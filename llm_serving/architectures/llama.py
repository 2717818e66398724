"""Llama, SmolLM2 and their kin: no biases, query and key rows stored as rotary pairs in GGUF files."""

from __future__ import annotations

from llm_serving.architectures.decoder import describe_decoder
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for a mixture of experts, which is stored under the same name."""
    if checkpoint.hyper("expert_count", 0):
        raise CheckpointError(
            f"'{checkpoint.path}' is a mixture of experts; the engine runs dense models only."
        )
    return describe_decoder(checkpoint, interleaved=True, qkv_bias=False)
