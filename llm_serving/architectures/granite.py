"""Granite 3, dense: llama with scales for words, scores, parts and logits."""

from __future__ import annotations

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, Scales, describe_decoder
from llm_serving.architectures.decoder_shape import Defaults
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(epsilon=1e-6)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases, or a scale that is no positive number."""
    if checkpoint.format == "gguf":
        # Files write 0 for the usual scale of scores, that by the size of heads.
        is_given = bool(checkpoint.hyper("attention.scale"))
        scores = gguf_keys.number(checkpoint, "attention.scale", 1.0) if is_given else None
        scales = Scales(
            words=gguf_keys.number(checkpoint, "embedding_scale", 1.0),
            scores=scores,
            parts=gguf_keys.number(checkpoint, "residual_scale", 1.0),
            logits=1 / gguf_keys.number(checkpoint, "logit_scale", 1.0),
        )
        return describe_decoder(checkpoint, Kind(interleaved=True, scales=scales), _DEFAULTS)
    for key in ("attention_bias", "mlp_bias"):
        config_json.require(checkpoint, key, (False,), False)
    scales = Scales(
        words=config_json.number(checkpoint, "embedding_multiplier", default=1.0),
        scores=config_json.number(checkpoint, "attention_multiplier", default=1.0),
        parts=config_json.number(checkpoint, "residual_multiplier", default=1.0),
        logits=1 / config_json.number(checkpoint, "logits_scaling", default=1.0),
    )
    return describe_decoder(checkpoint, Kind(scales=scales), _DEFAULTS)
