"""Qwen3.5: three of four layers are Gated DeltaNet, each fourth is attention with output gates (Qwen 2026).

It sees with Qwen3-VL's tower (`qwen3_vl.py`), without DeepStack. Of the layer that drafts tokens (MTP)
nothing is read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_layer import feed_forward
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.architectures.delta_layer import (
    DeltaNames,
    delta_buffers,
    delta_layer,
    gated_attention,
    separate,
)
from llm_serving.architectures.layer_kinds import GLOBAL, every
from llm_serving.architectures.mrope import with_axes
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.delta_net import TAPS, DeltaHeads

DEFAULTS = Defaults(theta=10000000.0, epsilon=1e-6, context=32768, rotated=0.25)
LINEAR = "linear_attention"  # what config.json calls layers of Gated DeltaNet
_ATTENTION_EVERY = 4
_SECTIONS = (11, 11, 10)
_UNREAD = ("mtp.", "model.mtp.", "model.visual.", "visual.")  # tensors, by how their names begin


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    text = text_part(checkpoint)
    names, heads = decoder_names(text), delta_heads(text, tiled=text.format == "gguf")
    plan = hybrid_plan(text, names, delta_names(text, names, heads), heads, Kind())
    return turned_by_axes(plan, text, checkpoint)


def turned_by_axes(plan: ops.ModelPlan, text: Checkpoint, whole: Checkpoint) -> ops.ModelPlan:
    """Where the model may see: text models of directories without eyes need not say of sections.

    Raises: CheckpointError as `with_axes`.
    """
    if whole.format == "huggingface" and whole.metadata.get("vision_config") is None:
        return plan
    return with_axes(plan, text, _SECTIONS, interleaved=True)


def hybrid_plan(
    checkpoint: Checkpoint, names: Names, own: DeltaNames, heads: DeltaHeads, kind: Kind
) -> ops.ModelPlan:
    """Of `kind` only the feed-forward parts. Raises: CheckpointError for sizes that do not fit."""
    shape = decoder_shape(checkpoint)
    attending = attention_layers(checkpoint, shape.layers)
    if not attending or len(attending) == shape.layers:
        raise CheckpointError(
            f"{len(attending)} of {shape.layers} layers of '{checkpoint.path}' are attention; "
            "the engine needs some of both kinds."
        )
    if checkpoint.format == "huggingface":
        kind = replace(kind, norm_offset=1.0)

    def layer(index: int) -> tuple[ops.Operation, ...]:
        before = sum(i < index for i in attending)  # attention layers
        mixing = (
            gated_attention(index, before, names, shape)
            if index in attending
            else delta_layer(index, names, own, shape, heads)
        )
        return (*mixing, *feed_forward(checkpoint, index, names, shape, kind))

    plan = plan_of(checkpoint, names, shape, kind, layer)
    return replace(
        plan,
        kv=plan.kv[: len(attending)],
        buffers={"x": shape.hidden, **delta_buffers(shape, heads), **plan.buffers},
        state_floats=(shape.layers - len(attending)) * heads.state_floats,
    )


def text_part(checkpoint: Checkpoint) -> Checkpoint:
    """The text model of one that also sees, with settings of its own; without tensors that are not read."""
    tensors = {name: each for name, each in checkpoint.tensors.items() if not name.startswith(_UNREAD)}
    metadata: Any = checkpoint.metadata
    if checkpoint.format == "huggingface" and "text_config" in metadata:
        text = metadata["text_config"]
        if not isinstance(text, dict):
            raise CheckpointError(f"'text_config' in the config.json of '{checkpoint.path}' is no object.")
        is_tied = bool(metadata.get("tie_word_embeddings")) or "lm_head.weight" not in tensors
        metadata = {**text, "tie_word_embeddings": is_tied}
    return replace(checkpoint, metadata=metadata, tensors=tensors)


def decoder_names(checkpoint: Checkpoint) -> Names:
    names = read_names(checkpoint)
    return replace(names, ffn_norm="blk.{i}.post_attention_norm") if checkpoint.format == "gguf" else names


def decoder_shape(checkpoint: Checkpoint) -> Shape:
    """Raises: CheckpointError for biases, or a size that is missing or out of range."""
    if checkpoint.format == "huggingface":
        config_json.require(checkpoint, "attention_bias", (False,), False)
        return read_shape(checkpoint, DEFAULTS)
    shape = read_shape(checkpoint, DEFAULTS)
    drafting: Any = checkpoint.hyper("nextn_predict_layers", 0)
    if not isinstance(drafting, int) or not 0 <= drafting < shape.layers:
        raise gguf_keys.problem(checkpoint, "nextn_predict_layers", drafting, "a number of layers is needed")
    return replace(shape, layers=shape.layers - drafting)


def delta_heads(checkpoint: Checkpoint, *, tiled: bool) -> DeltaHeads:
    """Raises: CheckpointError for a size that is missing, or not one that the engine runs."""
    if checkpoint.format == "gguf":

        def size(key: str) -> int:
            return gguf_keys.positive(checkpoint, f"ssm.{key}")

        taps, inner, values = size("conv_kernel"), size("inner_size"), size("time_step_rank")
        value_dim = inner // values if inner % values == 0 else 0
        heads = DeltaHeads(size("group_count"), values, size("state_size"), value_dim, tiled)
    else:

        def size(key: str) -> int:
            return config_json.positive(checkpoint, f"linear_{key}")

        taps = size("conv_kernel_dim")
        sizes = (size("num_key_heads"), size("num_value_heads"), size("key_head_dim"), size("value_head_dim"))
        heads = DeltaHeads(*sizes, tiled)
    if taps != TAPS or heads.values % heads.keys or not _run(heads.key_dim) or not _run(heads.value_dim):
        raise CheckpointError(
            f"{heads.values} value heads of size {heads.value_dim} over {heads.keys} key heads of size "
            f"{heads.key_dim} behind a convolution of {taps} tokens, in '{checkpoint.path}', is a shape that "
            "the engine does not run."
        )
    return heads


def _run(dim: int) -> bool:
    """Whether kernels take heads of this size; checked again in src/bindings_delta.cpp."""
    return dim == 16 or (0 < dim <= 512 and dim % 32 == 0)


def delta_names(checkpoint: Checkpoint, names: Names, heads: DeltaHeads) -> DeltaNames:
    if checkpoint.format == "gguf":
        layer = "blk.{i}."
        return DeltaNames(
            inputs=separate(
                f"{layer}attn_qkv.weight",
                f"{layer}attn_gate.weight",
                f"{layer}ssm_beta.weight",
                f"{layer}ssm_alpha.weight",
                heads,
            ),
            taps=f"{layer}ssm_conv1d.weight",
            rates=f"{layer}ssm_a",
            bias=f"{layer}ssm_dt.bias",
            norm=f"{layer}ssm_norm.weight",
            output=f"{layer}ssm_out.weight",
            is_logarithm=False,
        )
    layer = names.query.replace("self_attn.q_proj", "linear_attn.")
    return DeltaNames(
        inputs=separate(
            f"{layer}in_proj_qkv.weight",
            f"{layer}in_proj_z.weight",
            f"{layer}in_proj_b.weight",
            f"{layer}in_proj_a.weight",
            heads,
        ),
        taps=f"{layer}conv1d.weight",
        rates=f"{layer}A_log",
        bias=f"{layer}dt_bias",
        norm=f"{layer}norm.weight",
        output=f"{layer}out_proj.weight",
        is_logarithm=True,
    )


def attention_layers(checkpoint: Checkpoint, layers: int) -> frozenset[int]:
    """Those that are attention. Raises: CheckpointError for a list that is not one of layers."""
    if checkpoint.format == "gguf":
        period = gguf_keys.positive(checkpoint, "full_attention_interval", _ATTENTION_EVERY)
        recurrent: Any = checkpoint.hyper("attention.recurrent_layers")
        if recurrent is None:
            return every(period, layers)
        is_list = isinstance(recurrent, np.ndarray) and recurrent.dtype == bool
        if not is_list or len(recurrent) < layers:
            raise gguf_keys.problem(
                checkpoint, "attention.recurrent_layers", recurrent, f"{layers} times yes or no is needed"
            )
        return frozenset(np.flatnonzero(~recurrent[:layers]).tolist())
    kinds: Any = checkpoint.metadata.get("layer_types")
    if kinds is None:
        return every(
            config_json.positive(checkpoint, "full_attention_interval", default=_ATTENTION_EVERY), layers
        )
    is_list = isinstance(kinds, list) and len(kinds) == layers
    if not is_list or not all(kind in (LINEAR, GLOBAL) for kind in kinds):
        raise CheckpointError(
            f"'layer_types' in the config.json of '{checkpoint.path}' is no list of {layers} times "
            f"'{LINEAR}' or '{GLOBAL}'."
        )
    return frozenset(i for i, kind in enumerate(kinds) if kind == GLOBAL)
