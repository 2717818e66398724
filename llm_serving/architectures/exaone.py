"""EXAONE 3.0 and 3.5: llama by other names (LG AI Research 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Kind, describe_decoder, plan_of
from llm_serving.architectures.decoder_shape import Defaults, Names, head_of, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(theta=500000.0, context=4096)
_KEYS = {
    "num_layers": "num_hidden_layers",
    "layer_norm_epsilon": "rms_norm_eps",
    "activation_function": "hidden_act",
}


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases, or a size that is missing."""
    if checkpoint.format == "gguf":
        return describe_decoder(checkpoint, Kind(), _DEFAULTS)
    for key in ("attention_bias", "mlp_bias"):
        config_json.require(checkpoint, key, (False,), False)
    metadata: Any = checkpoint.metadata
    usual = {_KEYS.get(key, key): value for key, value in metadata.items()}
    checkpoint = replace(checkpoint, metadata=usual)
    return plan_of(checkpoint, _names(checkpoint), read_shape(checkpoint, _DEFAULTS), Kind())


def _names(checkpoint: Checkpoint) -> Names:
    prefix = config_json.prefix_of(checkpoint, "wte.weight")
    layer = prefix + "h.{i}."
    return Names(
        words=f"{prefix}wte",
        input_norm=f"{layer}ln_1",
        query=f"{layer}attn.attention.q_proj",
        key=f"{layer}attn.attention.k_proj",
        value=f"{layer}attn.attention.v_proj",
        output=f"{layer}attn.attention.out_proj",
        ffn_norm=f"{layer}ln_2",
        gate=f"{layer}mlp.c_fc_0",
        up=f"{layer}mlp.c_fc_1",
        down=f"{layer}mlp.c_proj",
        norm=f"{prefix}ln_f",
        head=head_of(checkpoint) or "lm_head",
    )
