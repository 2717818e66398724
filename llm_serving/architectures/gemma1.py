"""Gemma (Gemma Team 2024), and VaultGemma: Gemma 2 without norms behind parts (Sinha et al. 2025)."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Kind, Scales, plan_of
from llm_serving.architectures.decoder_shape import Defaults, read_names, read_shape
from llm_serving.architectures.gemma import ACTIVATION
from llm_serving.architectures.gemma2 import cap
from llm_serving.architectures.layer_kinds import global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(epsilon=1e-6, context=8192, activation=ACTIVATION)
_FIRST_FILES = ("hidden_act", "gelu")  # said the wrong gelu; what was meant is known
_GLOBAL_EVERY = 2


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases, or attention to what comes."""
    is_gguf = checkpoint.format == "gguf"
    if not is_gguf:
        for key in ("use_bidirectional_attention", "attention_bias"):
            config_json.require(checkpoint, key, (None, False), None)
        config_json.require(checkpoint, "hidden_act", (_FIRST_FILES[1], ACTIVATION[1]), ACTIVATION[1])
        config_json.require(checkpoint, "hidden_activation", (None, ACTIVATION[1]), None)
        checkpoint = replace(checkpoint, metadata={**checkpoint.metadata, ACTIVATION[0]: ACTIVATION[1]})
    shape = read_shape(checkpoint, _DEFAULTS)
    kind = Kind(
        scales=Scales(words=shape.hidden**0.5),
        norm_offset=0.0 if is_gguf else 1.0,
        activation="gelu_tanh",
    )
    return plan_of(checkpoint, read_names(checkpoint), shape, kind)


def describe_vault(checkpoint: Checkpoint) -> ModelPlan:
    """A directory of VaultGemma. Raises: CheckpointError for biases, or caps that no model has."""
    config_json.require(checkpoint, "attention_bias", (None, False), None)
    names, shape = read_names(checkpoint), read_shape(checkpoint, _DEFAULTS)
    width = config_json.number(checkpoint, "query_pre_attn_scalar", default=256.0)
    kind = Kind(
        scales=Scales(words=shape.hidden**0.5, scores=width**-0.5),
        norm_offset=1.0,
        activation="gelu_tanh",
        score_cap=cap(checkpoint, "attn_logit_softcapping", 50.0),
        logit_cap=cap(checkpoint, "final_logit_softcapping", 30.0),
        window=config_json.positive(checkpoint, "sliding_window", default=4096),
        open=global_layers(checkpoint, shape.layers, _GLOBAL_EVERY),
    )
    names = replace(names, ffn_norm=names.ffn_norm.replace("post_attention", "pre_feedforward"))
    return plan_of(checkpoint, names, shape, kind)
