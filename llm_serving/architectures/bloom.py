"""Bloom and MPT: scores fall with the distance, and nothing else tells places (ALiBi).

Press et al. 2022, Le Scao et al. 2022, MosaicML 2023.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, Scales, plan_of
from llm_serving.architectures.decoder_shape import Names, head_of, read_names
from llm_serving.architectures.older_config import BIASED, in_usual_words, read_older, without_rotation
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import LinearBias, ModelPlan

_MOST = 1e3
_MPT = Kind(layer_norm=True, gated=False, fused_inputs=True)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Embeddings are normed, too. Raises: CheckpointError for sums with what was normed."""
    if checkpoint.format == "gguf":
        names, kind = read_names(checkpoint), replace(BIASED, fused_inputs=True)
    else:
        config_json.require(checkpoint, "apply_residual_connection_post_layernorm", (False,), False)
        names, kind = bloom_names(checkpoint), replace(BIASED, grouped_inputs=True)
    usual = in_usual_words(checkpoint)
    shape, kind = read_older(usual, kind, context=2048, activation="gelu_new")
    kind = replace(kind, falling=LinearBias(shape.heads), words_norm=True)
    return plan_of(usual, names, shape, without_rotation(kind, shape))


def bloom_names(checkpoint: Checkpoint) -> Names:
    """Raises: CheckpointError when a directory has no embedding."""
    prefix = config_json.prefix_of(checkpoint, "word_embeddings.weight")
    layer = prefix + "h.{i}."
    return Names(
        words=f"{prefix}word_embeddings",
        words_norm=f"{prefix}word_embeddings_layernorm",
        input_norm=f"{layer}input_layernorm",
        qkv=f"{layer}self_attention.query_key_value",
        output=f"{layer}self_attention.dense",
        ffn_norm=f"{layer}post_attention_layernorm",
        up=f"{layer}mlp.dense_h_to_4h",
        down=f"{layer}mlp.dense_4h_to_h",
        norm=f"{prefix}ln_f",
        head=head_of(checkpoint) or "lm_head",
    )


def describe_mpt(checkpoint: Checkpoint) -> ModelPlan:
    """No biases; queries, keys and values may be clipped.

    Raises: CheckpointError for a model with biases, learned positions or normed heads.
    """
    read = _of_file if checkpoint.format == "gguf" else _of_directory
    names, steepness, kind = read(checkpoint)
    usual = in_usual_words(checkpoint)
    shape, kind = read_older(usual, kind, context=2048, activation="gelu")
    kind = replace(kind, falling=LinearBias(shape.heads, steepness))
    return plan_of(usual, names, shape, without_rotation(kind, shape))


def _of_file(checkpoint: Checkpoint) -> tuple[Names, float, Kind]:
    for name in ("blk.0.attn_qkv.bias", "blk.0.attn_q_norm.weight", "position_embd.weight"):
        if name in checkpoint.tensors:
            raise CheckpointError(
                f"'{checkpoint.path}' is an MPT with a tensor '{name}', which is not supported."
            )
    clip = checkpoint.hyper("attention.clamp_kqv", 0.0)
    if clip:
        clip = gguf_keys.number(checkpoint, "attention.clamp_kqv", 0.0)
    steepness = gguf_keys.number(checkpoint, "attention.max_alibi_bias", 0.0)
    return read_names(checkpoint), steepness, replace(_MPT, clip=float(clip))


def _of_directory(checkpoint: Checkpoint) -> tuple[Names, float, Kind]:
    config_json.require(checkpoint, "no_bias", (True,), True)
    config_json.require(checkpoint, "logit_scale", (None,), None)
    given: Any = config_json.part(checkpoint, "attn_config") if checkpoint.metadata.get("attn_config") else {}
    attention = replace(checkpoint, metadata=given)
    config_json.require(attention, "alibi", (True,), True)
    config_json.require(attention, "attn_type", ("multihead_attention",), "multihead_attention")
    for key in ("prefix_lm", "qk_ln"):
        config_json.require(attention, key, (False,), False)
    numbers = {
        key: None if given.get(key) is None else config_json.number(attention, key, default=0.0)
        for key in ("clip_qkv", "softmax_scale", "alibi_bias_max")
    }
    if (numbers["softmax_scale"] or 0.0) > _MOST:
        raise CheckpointError(f"Scores of '{checkpoint.path}' are scaled by {numbers['softmax_scale']:g}.")
    scales = Scales(scores=numbers["softmax_scale"])
    kind = replace(_MPT, clip=numbers["clip_qkv"] or 0.0, scales=scales)
    return _mpt_names(checkpoint), numbers["alibi_bias_max"] or 8.0, kind


def _mpt_names(checkpoint: Checkpoint) -> Names:
    prefix = config_json.prefix_of(checkpoint, "wte.weight")
    layer = prefix + "blocks.{i}."
    return Names(
        words=f"{prefix}wte",
        input_norm=f"{layer}norm_1",
        qkv=f"{layer}attn.Wqkv",
        output=f"{layer}attn.out_proj",
        ffn_norm=f"{layer}norm_2",
        up=f"{layer}ffn.up_proj",
        down=f"{layer}ffn.down_proj",
        norm=f"{prefix}norm_f",
        head=head_of(checkpoint) or "lm_head",
    )
