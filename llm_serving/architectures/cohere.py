"""Command R and R7B, Aya: attention and feed-forward side by side, norms without bias, scaled logits.

Cohere 2024. Command R7B has windows in three of four layers, and the others are not told positions.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, Scales, plan_of
from llm_serving.architectures.decoder_shape import LAYER_NORM, Defaults, read_names, read_shape
from llm_serving.architectures.layer_kinds import global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(context=8192, epsilons=LAYER_NORM)
_GLOBAL_EVERY = 4  # layers; the last of four sees everything
_MOST = 1e6


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Command R. Raises: CheckpointError for biases, heads that are normed, or an impossible scale."""
    if checkpoint.format == "gguf":
        if "blk.0.attn_q_norm.weight" in checkpoint.tensors:
            raise CheckpointError(
                f"Heads of '{checkpoint.path}' are normed one by one, which is not supported."
            )
    else:
        config_json.require(checkpoint, "use_qk_norm", (False,), False)
    return _describe(checkpoint, Kind())


def describe_2(checkpoint: Checkpoint) -> ModelPlan:
    """Command R7B. Raises: CheckpointError for biases, a window of no tokens, or an impossible scale."""
    is_gguf = checkpoint.format == "gguf"
    layers = (gguf_keys.num_layers if is_gguf else _num_layers)(checkpoint)
    if is_gguf:
        window = gguf_keys.positive(checkpoint, "attention.sliding_window")
    else:
        window = config_json.positive(checkpoint, "sliding_window", default=4096)
    everything = global_layers(checkpoint, layers, _GLOBAL_EVERY)
    return _describe(checkpoint, Kind(window=window, open=everything, still=everything))


def _num_layers(checkpoint: Checkpoint) -> int:
    return config_json.num_layers(checkpoint, "num_hidden_layers")


def logit_scale(checkpoint: Checkpoint) -> float:
    """Raises: CheckpointError for a scale that no model has."""
    if checkpoint.format == "gguf":
        scale = gguf_keys.number(checkpoint, "logit_scale", 0.0625)
    else:
        scale = config_json.number(checkpoint, "logit_scale", default=0.0625)
    if not 1 / _MOST <= scale <= _MOST:
        raise CheckpointError(f"Logits of '{checkpoint.path}' have a scale of {scale:g}: no model does.")
    return scale


def _describe(checkpoint: Checkpoint, kind: Kind) -> ModelPlan:
    if checkpoint.format != "gguf":
        config_json.require(checkpoint, "attention_bias", (False,), False)
        config_json.require(checkpoint, "use_parallel_block", (True,), True)
    scales = Scales(logits=logit_scale(checkpoint))
    kind = replace(kind, scales=scales, layer_norm=True, parallel=True, interleaved=True)
    return plan_of(checkpoint, read_names(checkpoint), read_shape(checkpoint, _DEFAULTS), kind)
