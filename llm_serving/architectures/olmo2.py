"""OLMo 2: norms behind each part and none before; whole queries and keys are normed (OLMo Team 2025)."""

from __future__ import annotations

from llm_serving.architectures.config_json import require
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import GGUF_NORMS_BEHIND, Defaults, read_names, read_shape
from llm_serving.architectures.gguf_keys import problem
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for biases, or windows, which GGUF files of OLMo 3 have under this name."""
    names, behind = read_names(checkpoint), GGUF_NORMS_BEHIND
    if window := checkpoint.hyper("attention.sliding_window"):
        raise problem(checkpoint, "attention.sliding_window", window, "windows are not supported")
    if checkpoint.format != "gguf":
        require(checkpoint, "attention_bias", (False,), False)
        # By its name others have the first before the feed-forward part.
        behind = (names.ffn_norm, names.ffn_norm.replace("post_attention", "post_feedforward"))
    kind = Kind(whole_norm=True, norms_before=False, norms_behind=behind)
    return plan_of(checkpoint, names, read_shape(checkpoint, Defaults()), kind)
