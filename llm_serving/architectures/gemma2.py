"""Gemma 2: windows in every other layer, scores and logits that are softly capped (Gemma Team 2024)."""

from __future__ import annotations

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind
from llm_serving.architectures.decoder_shape import Defaults, read_shape
from llm_serving.architectures.gemma import ACTIVATION, gemma_plan
from llm_serving.architectures.layer_kinds import global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(epsilon=1e-6, context=8192, activation=ACTIVATION)
_GLOBAL_EVERY = 2  # layers; the second of two sees everything
_LARGEST = 46  # layers of the 27 B model
_MOST = 1e6


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    shape = read_shape(checkpoint, _DEFAULTS)
    if checkpoint.format != "gguf":
        for key in ("use_bidirectional_attention", "attention_bias"):
            config_json.require(checkpoint, key, (None, False), None)
    kind = Kind(
        score_cap=cap(checkpoint, "attn_logit_softcapping", 50.0),
        logit_cap=cap(checkpoint, "final_logit_softcapping", 30.0),
        open=global_layers(checkpoint, shape.layers, _GLOBAL_EVERY),
    )
    return gemma_plan(checkpoint, shape, kind, largest=_LARGEST, window=4096)


def cap(checkpoint: Checkpoint, key: str, default: float) -> float:
    """0 for none, which a config.json may say. Raises: CheckpointError for a number that caps nothing."""
    if checkpoint.format == "gguf":
        cap = gguf_keys.number(checkpoint, key, default)
    elif checkpoint.metadata.get(key, default) is None:
        return 0.0
    else:
        cap = config_json.number(checkpoint, key, default=default)
    if not 1 / _MOST <= cap <= _MOST:
        raise CheckpointError(f"'{key}' of '{checkpoint.path}' is {cap:g}: no model has such a cap.")
    return cap
