"""Gemma 3: windows in five of six layers (Gemma Team 2025). How it sees is in `gemma3_vision.py`."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind
from llm_serving.architectures.decoder_shape import Defaults, read_shape
from llm_serving.architectures.gemma import ACTIVATION, gemma_plan
from llm_serving.architectures.gemma3_vision import num_soft_tokens, text_part
from llm_serving.architectures.layer_kinds import GLOBAL, LOCAL, global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops

DEFAULTS = Defaults(theta=1000000.0, epsilon=1e-6, context=32768, activation=ACTIVATION, kind=GLOBAL)
_LOCAL_THETA = 10000.0
GLOBAL_EVERY = 6  # layers; the last of six sees everything
_LARGEST = 62  # layers of the 27 B model
# What a config.json may say and nothing here computes: softer scores and logits, attention to what comes.
_ABSENT = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
    "attention_bias",
)


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    if checkpoint.format == "huggingface" and "text_config" in checkpoint.metadata:
        return replace(describe(text_part(checkpoint)), given_span=num_soft_tokens(checkpoint))
    shape = read_shape(checkpoint, DEFAULTS)
    if checkpoint.format == "huggingface":
        for key in _ABSENT:
            config_json.require(checkpoint, key, (None, False), None)
    kind = Kind(
        head_norm=True,
        open=global_layers(checkpoint, shape.layers, GLOBAL_EVERY),
        local=ops.Rope(local_theta(checkpoint), shape.rope.rotated),
    )
    plan = gemma_plan(checkpoint, shape, kind, largest=_LARGEST, window=512)
    if checkpoint.projector is None:
        return plan
    return replace(plan, given_span=num_soft_tokens(checkpoint.projector))


def local_theta(checkpoint: Checkpoint) -> float:
    """The base of rotary positions in layers with a window. Raises: CheckpointError for one that is none."""
    if checkpoint.format == "gguf":
        return gguf_keys.number(checkpoint, "rope.freq_base_swa", _LOCAL_THETA)
    return config_json.rope_theta(checkpoint, "rope_local_base_freq", default=_LOCAL_THETA, kind=LOCAL)
