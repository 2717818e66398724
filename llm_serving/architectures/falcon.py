"""Falcon 1 and 2: both parts of a layer side by side, queries that share keys (Almazrouei et al. 2023)."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json
from llm_serving.architectures.bloom import bloom_names
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import Names, Shape, read_names
from llm_serving.architectures.older_config import BIASED, in_usual_words, read_older, without_rotation
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import LinearBias, ModelPlan

_KIND = replace(BIASED, qkv_bias=False, output_bias=False, ffn_bias=False, parallel=True)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """The two parts read the rows of one norm, or each of its own. Raises: CheckpointError."""
    if checkpoint.format == "gguf":
        return _of_file(checkpoint)
    is_new = bool(checkpoint.metadata.get("new_decoder_architecture", False))
    is_shared = bool(checkpoint.metadata.get("multi_query", True)) and not is_new
    has_bias, is_parallel = (
        bool(checkpoint.metadata.get(key, default))
        for key, default in (("bias", False), ("parallel_attn", True))
    )
    norms = checkpoint.metadata.get("num_ln_in_parallel_attn")
    is_apart = is_new and (norms is None or norms == 2)
    kind = replace(
        _KIND,
        qkv_bias=has_bias,
        output_bias=has_bias,
        ffn_bias=has_bias,
        parallel=is_parallel or is_new,
        parallel_norms=is_apart,
        fused_inputs=is_shared,
        grouped_inputs=not is_shared,
    )
    kv_heads = 1 if is_shared else None
    if is_new and checkpoint.metadata.get("num_kv_heads") is not None:
        kv_heads = config_json.positive(checkpoint, "num_kv_heads")
    usual = in_usual_words(checkpoint, kv_heads=kv_heads)
    shape, kind = read_older(usual, kind, context=2048, activation="gelu")
    if checkpoint.metadata.get("alibi"):
        kind = _falling(kind, shape)
    return plan_of(usual, _names(checkpoint, is_apart), shape, kind)


def _of_file(checkpoint: Checkpoint) -> ModelPlan:
    names = read_names(checkpoint)
    is_apart = "blk.0.attn_norm_2.weight" in checkpoint.tensors
    if is_apart:  # the first norm is that of the feed-forward part
        names = replace(names, input_norm="blk.{i}.attn_norm_2", ffn_norm="blk.{i}.attn_norm")
    kind = replace(_KIND, fused_inputs=True, parallel_norms=is_apart)
    shape, kind = read_older(checkpoint, kind, context=2048, activation="gelu")
    return plan_of(checkpoint, names, shape, kind)


def _names(checkpoint: Checkpoint, is_apart: bool) -> Names:
    names = bloom_names(checkpoint)
    if not is_apart:
        return names
    layer = names.input_norm.removesuffix("input_layernorm")
    return replace(names, input_norm=f"{layer}ln_attn", ffn_norm=f"{layer}ln_mlp")


def _falling(kind: Kind, shape: Shape) -> Kind:
    """What scores lose is scaled as they are."""
    falling = LinearBias(shape.heads, scale=shape.head_dim**-0.5)
    return without_rotation(replace(kind, falling=falling), shape)
