"""ChatGLM 3 and GLM-4, dense: half of each head rotates, in pairs (GLM Team 2024).

The later GLM-4 (0414) has norms before and behind each part.
"""

from __future__ import annotations

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import GGUF_NORMS_BEHIND, Defaults, read_names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(epsilon=1.5625e-7, context=131072, rotated=0.5)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for positions of images, layers that predict, or a size that is missing."""
    names, norms_behind = read_names(checkpoint), GGUF_NORMS_BEHIND
    if checkpoint.format == "gguf":
        for key in ("rope.dimension_sections", "nextn_predict_layers"):
            if not gguf_keys.is_zero(checkpoint, key):
                raise gguf_keys.problem(checkpoint, key, "there", "it is not supported")
        has_bias = f"{names.query.format(i=0)}.bias" in checkpoint.tensors
    else:
        config_json.require(checkpoint, "attention_bias", (True, False), True)
        has_bias = bool(checkpoint.metadata.get("attention_bias", True))
        norms_behind = (
            names.ffn_norm.replace("post_attention", "post_self_attn"),
            names.ffn_norm.replace("post_attention", "post_mlp"),
        )
    kind = Kind(qkv_bias=has_bias, interleaved=True, fused_gates=True, norms_behind=norms_behind)
    return plan_of(checkpoint, names, read_shape(checkpoint, _DEFAULTS), kind)


def describe_glm(checkpoint: Checkpoint) -> ModelPlan:
    """The first GLM-4, or a GGUF file of ChatGLM 3: norms before parts only. Raises: CheckpointError."""
    names = read_names(checkpoint)
    is_fused = f"{names.qkv.format(i=0)}.weight" in checkpoint.tensors  # in files of its first code
    if checkpoint.format == "gguf":
        first = names.qkv if is_fused else names.query
        has_bias = f"{first.format(i=0)}.bias" in checkpoint.tensors
    else:
        config_json.require(checkpoint, "attention_bias", (True, False), True)
        has_bias = bool(checkpoint.metadata.get("attention_bias", True))
    kind = Kind(qkv_bias=has_bias, interleaved=True, fused_inputs=is_fused, fused_gates=True)
    return plan_of(checkpoint, names, read_shape(checkpoint, _DEFAULTS), kind)
