"""OLMo 2 and 3: norms behind each part and none before; whole queries and keys are normed.

OLMo Team 2025. OLMo 3 has windows in three of four layers, and scales rotary positions in the others only.
GGUF files call it olmo2, too.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import GGUF_NORMS_BEHIND, Defaults, read_names, read_shape
from llm_serving.architectures.layer_kinds import GLOBAL, LOCAL, global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan, Rope

_THETA = 500000.0
_GLOBAL_EVERY = 4  # layers; the last of four sees everything


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases, or a window that is no positive integer."""
    has_window = not gguf_keys.is_zero(checkpoint, "attention.sliding_window")
    window = gguf_keys.positive(checkpoint, "attention.sliding_window") if has_window else 0
    theta = gguf_keys.number(checkpoint, "rope.freq_base", Defaults().theta)
    return _describe(checkpoint, Defaults(), window, theta)


def describe_olmo3(checkpoint: Checkpoint) -> ModelPlan:
    """A directory of OLMo 3. Raises: CheckpointError for biases, or a size that is missing."""
    window = config_json.positive(checkpoint, "sliding_window", default=4096)
    theta = config_json.rope_theta(checkpoint, "rope_theta", default=_THETA, kind=LOCAL)
    return _describe(checkpoint, Defaults(theta=_THETA, kind=GLOBAL), window, theta)


def _describe(checkpoint: Checkpoint, defaults: Defaults, window: int, theta: float) -> ModelPlan:
    """`theta` is that of layers with a window."""
    names, shape, behind = read_names(checkpoint), read_shape(checkpoint, defaults), GGUF_NORMS_BEHIND
    if checkpoint.format != "gguf":
        config_json.require(checkpoint, "attention_bias", (False,), False)
        # By its name others have the first before the feed-forward part.
        behind = (names.ffn_norm, names.ffn_norm.replace("post_attention", "post_feedforward"))
    kind = Kind(whole_norm=True, norms_before=False, norms_behind=behind)
    if window:
        kind = replace(
            kind,
            window=window,
            open=global_layers(checkpoint, shape.layers, _GLOBAL_EVERY),
            local=Rope(theta, shape.rope.rotated),
        )
    return plan_of(checkpoint, names, shape, kind)
