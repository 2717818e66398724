"""Attention and feed-forward side by side, biases everywhere: Phi 1.5 and 2, GPT-NeoX and Pythia.

Li et al. 2023, Black et al. 2022, Biderman et al. 2023. Parts of heads rotate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import LAYER_NORM, Defaults, Names, read_names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_PHI = Defaults(epsilons=LAYER_NORM, activation=("hidden_act", "gelu_new"), rotated=0.5)
_NEOX = Defaults(epsilons=LAYER_NORM, activation=("hidden_act", "gelu"), rotated=0.25)
_NEOX_KEYS = {"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"}
_KIND = Kind(
    qkv_bias=True,
    output_bias=True,
    ffn_bias=True,
    layer_norm=True,
    norm_bias=True,
    parallel=True,
    gated=False,
)


def describe_phi(checkpoint: Checkpoint) -> ModelPlan:
    """Logits have biases, too. Raises: CheckpointError for heads that are normed."""
    names = read_names(checkpoint)
    if checkpoint.format != "gguf":
        config_json.require(checkpoint, "qk_layernorm", (False,), False)
        mlp = names.up.replace("up_proj", "")
        names = replace(
            names,
            output=names.output.replace("o_proj", "dense"),
            up=f"{mlp}fc1",
            down=f"{mlp}fc2",
            norm=names.norm.replace("norm", "final_layernorm"),
        )
    is_fused = f"{names.qkv.format(i=0)}.weight" in checkpoint.tensors  # in older files
    kind = replace(_KIND, fused_inputs=is_fused, head_bias=True, activation="gelu_tanh")
    return plan_of(checkpoint, names, read_shape(checkpoint, _PHI), kind)


def describe_neox(checkpoint: Checkpoint) -> ModelPlan:
    """Each of the two parts has its own norm, or one is behind the other. Raises: CheckpointError."""
    if checkpoint.format == "gguf":
        parallel = bool(checkpoint.hyper("use_parallel_residual", True))
        names, kind = read_names(checkpoint), replace(_KIND, fused_inputs=True)
    else:
        config_json.require(checkpoint, "attention_bias", (True,), True)
        metadata: Any = checkpoint.metadata
        parallel = bool(metadata.get("use_parallel_residual", True))
        usual = {_NEOX_KEYS.get(key, key): value for key, value in metadata.items()}
        checkpoint = replace(checkpoint, metadata=usual)
        names, kind = _neox_names(checkpoint), replace(_KIND, grouped_inputs=True)
    kind = replace(kind, parallel=parallel, parallel_norms=True, activation="gelu")
    return plan_of(checkpoint, names, read_shape(checkpoint, _NEOX), kind)


def _neox_names(checkpoint: Checkpoint) -> Names:
    prefix = config_json.prefix_of(checkpoint, "embed_in.weight")
    layer = prefix + "layers.{i}."
    return Names(
        words=f"{prefix}embed_in",
        input_norm=f"{layer}input_layernorm",
        output=f"{layer}attention.dense",
        ffn_norm=f"{layer}post_attention_layernorm",
        up=f"{layer}mlp.dense_h_to_4h",
        down=f"{layer}mlp.dense_4h_to_h",
        norm=f"{prefix}final_layer_norm",
        head="embed_out",
        qkv=f"{layer}attention.query_key_value",
    )
