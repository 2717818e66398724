"""Llama, SmolLM2, Mistral and their kin: no biases; GGUF files hold query and key rows as rotary pairs."""

from __future__ import annotations

from llm_serving.architectures.config_json import positive, require
from llm_serving.architectures.decoder import Kind, describe_decoder
from llm_serving.architectures.decoder_experts import describe_mixtral
from llm_serving.architectures.decoder_shape import Defaults
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases."""
    if checkpoint.format == "gguf":
        if checkpoint.hyper("expert_count", 0):
            return describe_mixtral(checkpoint)
        return describe_decoder(checkpoint, Kind(interleaved=True))
    require(checkpoint, "attention_bias", (False,), False)
    require(checkpoint, "mlp_bias", (False,), False)
    return describe_decoder(checkpoint, Kind())


def describe_ernie(checkpoint: Checkpoint) -> ModelPlan:
    """ERNIE 4.5, dense: rotary pairs in directories, too. Raises: CheckpointError for biases."""
    if checkpoint.format != "gguf":
        require(checkpoint, "use_bias", (False,), False)
    return describe_decoder(checkpoint, Kind(interleaved=True), Defaults(theta=500000.0, context=131072))


def describe_mistral(checkpoint: Checkpoint) -> ModelPlan:
    """A directory of Mistral's own family, whose older models have a window. Raises: CheckpointError."""
    has_window = checkpoint.metadata.get("sliding_window") is not None
    window = positive(checkpoint, "sliding_window") if has_window else 0
    return describe_decoder(checkpoint, Kind(window=window))
