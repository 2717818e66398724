"""GPT-2 and StarCoder 1: learned positions, norms that subtract the mean, biases everywhere.

Radford et al. 2019, Li et al. 2023.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import Names, head_of, read_names
from llm_serving.architectures.older_config import BIASED, in_usual_words, read_older, without_rotation
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_KIND = replace(BIASED, fused_inputs=True, positions=0)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Directories have matrices as inputs x outputs. Raises: CheckpointError for scores scaled by layer."""
    kind = _KIND
    if checkpoint.format != "gguf":
        config_json.require(checkpoint, "scale_attn_by_inverse_layer_idx", (False,), False)
        kind = replace(kind, transposed=True)
    return _describe(checkpoint, kind, "gelu_new")


def describe_bigcode(checkpoint: Checkpoint) -> ModelPlan:
    """StarCoder and SantaCoder: all queries read one head of keys. Raises: CheckpointError."""
    if checkpoint.format == "gguf":
        return _describe(checkpoint, _KIND, "gelu_pytorch_tanh")
    is_shared = bool(checkpoint.metadata.get("multi_query", True))
    kind = replace(_KIND, fused_inputs=is_shared, grouped_inputs=not is_shared)
    return _describe(checkpoint, kind, "gelu_pytorch_tanh", 1 if is_shared else None)


def _describe(checkpoint: Checkpoint, kind: Kind, activation: str, kv_heads: int | None = None) -> ModelPlan:
    names = read_names(checkpoint) if checkpoint.format == "gguf" else gpt2_names(checkpoint)
    if checkpoint.format != "gguf":
        config_json.require(checkpoint, "scale_attn_weights", (True,), True)
        config_json.require(checkpoint, "add_cross_attention", (False,), False)
    checkpoint = in_usual_words(checkpoint, kv_heads=kv_heads)
    shape, kind = read_older(checkpoint, kind, context=1024, activation=activation)
    return plan_of(checkpoint, names, shape, without_rotation(kind, shape))


def gpt2_names(checkpoint: Checkpoint) -> Names:
    """Raises: CheckpointError when a directory has no embedding."""
    prefix = config_json.prefix_of(checkpoint, "wte.weight")
    layer = prefix + "h.{i}."
    return Names(
        words=f"{prefix}wte",
        positions=f"{prefix}wpe",
        input_norm=f"{layer}ln_1",
        qkv=f"{layer}attn.c_attn",
        output=f"{layer}attn.c_proj",
        ffn_norm=f"{layer}ln_2",
        up=f"{layer}mlp.c_fc",
        down=f"{layer}mlp.c_proj",
        norm=f"{prefix}ln_f",
        head=head_of(checkpoint) or "lm_head",
    )
