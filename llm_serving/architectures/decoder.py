"""The shape most decoders share: norm, attention, norm, gated feed-forward (Touvron et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.architectures import gguf_keys
from llm_serving.architectures.gguf_keys import positive
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class _Shape:
    """The sizes of a decoder, checked."""

    hidden: int
    query_heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    epsilon: float
    interleaved: bool
    qkv_bias: bool
    head_norm: bool

    @property
    def queries(self) -> int:
        return self.query_heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim


def describe_decoder(
    checkpoint: Checkpoint, *, interleaved: bool, qkv_bias: bool, head_norm: bool = False
) -> ops.ModelPlan:
    """Plan of a pre-norm decoder with grouped queries, rotary positions and SwiGLU.

    `interleaved`: query and key rows stand as rotary pairs in the file; `head_norm`: their heads are normed.
    Raises: CheckpointError when a hyperparameter is missing or out of range.
    """
    embedding = checkpoint.tensor("token_embd.weight")
    shape = _shape(checkpoint, interleaved, qkv_bias, head_norm)
    layers = positive(checkpoint, "block_count")
    head = "output.weight" if "output.weight" in checkpoint.tensors else "token_embd.weight"
    vocab = embedding.shape[0]
    return ops.ModelPlan(
        vocab_size=vocab,
        max_context=positive(checkpoint, "context_length", 2048),
        layers=layers,
        query_heads=shape.query_heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        rope=_rope(checkpoint, shape),
        buffers={
            "x": shape.hidden,
            "qkv": shape.queries + 2 * shape.keys,
            "attention": shape.queries,
            "gate_up": 2 * shape.ffn,
            "last": shape.hidden,
            "logits": vocab,
        },
        operations=(
            ops.Embed("token_embd.weight", "x"),
            *(operation for i in range(layers) for operation in _layer(i, shape)),
            ops.SelectRows("x", "last"),
            ops.Quantize("last", "output_norm.weight", shape.epsilon),
            ops.Linear((ops.Projection(head, "logits"),)),
        ),
    )


def _layer(index: int, shape: _Shape) -> tuple[ops.Operation, ...]:
    block = f"blk.{index}."
    pairs = shape.head_dim if shape.interleaved else 0

    def projection(name: str, offset: int, pairs: int = 0) -> ops.Projection:
        bias = f"{block}{name}.bias" if shape.qkv_bias else None
        return ops.Projection(f"{block}{name}.weight", "qkv", offset, bias, pairs)

    return (
        ops.Quantize("x", f"{block}attn_norm.weight", shape.epsilon),
        ops.Linear(
            (
                projection("attn_q", 0, pairs),
                projection("attn_k", shape.queries, pairs),
                projection("attn_v", shape.queries + shape.keys),
            )
        ),
        *(_head_norms(block, shape) if shape.head_norm else ()),
        ops.RopeStore("qkv", index),
        ops.Attention("qkv", "attention", index, shape.head_dim**-0.5),
        ops.Quantize("attention"),
        ops.Linear((ops.Projection(f"{block}attn_output.weight", "x"),), accumulate=True),
        ops.Quantize("x", f"{block}ffn_norm.weight", shape.epsilon),
        ops.Linear(
            (
                ops.Projection(f"{block}ffn_gate.weight", "gate_up"),
                ops.Projection(f"{block}ffn_up.weight", "gate_up", shape.ffn),
            )
        ),
        ops.Gated("gate_up", shape.ffn),
        ops.Linear((ops.Projection(f"{block}ffn_down.weight", "x"),), accumulate=True),
    )


def _head_norms(block: str, shape: _Shape) -> tuple[ops.Operation, ...]:
    def norm(name: str, offset: int, heads: int) -> ops.HeadNorm:
        return ops.HeadNorm("qkv", offset, heads, f"{block}{name}.weight", shape.epsilon)

    return (
        norm("attn_q_norm", 0, shape.query_heads),
        norm("attn_k_norm", shape.queries, shape.kv_heads),
    )


def _shape(checkpoint: Checkpoint, interleaved: bool, qkv_bias: bool, head_norm: bool) -> _Shape:
    hidden = positive(checkpoint, "embedding_length")
    query_heads = positive(checkpoint, "attention.head_count")
    shape = _Shape(
        hidden=hidden,
        query_heads=query_heads,
        kv_heads=positive(checkpoint, "attention.head_count_kv", query_heads),
        head_dim=positive(checkpoint, "attention.key_length", hidden // query_heads),
        ffn=positive(checkpoint, "feed_forward_length"),
        epsilon=float(checkpoint.hyper("attention.layer_norm_rms_epsilon", 1e-5)),
        interleaved=interleaved,
        qkv_bias=qkv_bias,
        head_norm=head_norm,
    )
    if shape.query_heads % shape.kv_heads or shape.head_dim % 8:
        raise CheckpointError(
            f"{shape.query_heads} query heads over {shape.kv_heads} key heads of size {shape.head_dim} "
            f"in '{checkpoint.path}' is a shape the engine does not run."
        )
    return shape


def _rope(checkpoint: Checkpoint, shape: _Shape) -> ops.Rope:
    rope = gguf_keys.rope(checkpoint, shape.head_dim)
    if shape.interleaved and rope.rotated != shape.head_dim:
        raise CheckpointError(
            f"Rotating {rope.rotated} of {shape.head_dim} interleaved dimensions is not supported."
        )
    return rope
