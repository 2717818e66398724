"""Qwen3-Embedding and Qwen3-Reranker: a causal decoder, read at its last token (Zhang et al. 2025)."""

from __future__ import annotations

from llm_serving.architectures import gguf_keys
from llm_serving.architectures.decoder_shape import Names, Shape, is_tied, read_names, read_shape
from llm_serving.architectures.gguf_head import answer_head
from llm_serving.architectures.qwen3 import DEFAULTS, require_plain
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for windows, biases, another activation, or labels that are not known."""
    require_plain(checkpoint)
    names, shape = read_names(checkpoint), read_shape(checkpoint, DEFAULTS)
    if checkpoint.format == "gguf":
        head = answer_head(checkpoint)
        pooling = gguf_keys.pooling(checkpoint, "last", ranked="last" if head else None)
        return _plan(checkpoint, names, shape, pooling, head)
    return _plan(checkpoint, names, shape, "last", _head(checkpoint, names))


def _head(checkpoint: Checkpoint, names: Names) -> ops.Head | None:
    """A classifier, or the rows of the language model's own head for the answers named in `extras`."""
    answers: tuple[int, ...] | None = checkpoint.extras.get("answers")
    if answers is not None:
        return ops.Head(names.words if is_tied(checkpoint, names) else names.head, rows=answers)
    if "score.weight" not in checkpoint.tensors:
        return None
    return ops.Head("score", pad=checkpoint.metadata.get("pad_token_id"))


def _plan(
    checkpoint: Checkpoint, names: Names, sizes: Shape, pooling: str, head: ops.Head | None
) -> ops.EncoderPlan:
    words = checkpoint.tensor(f"{names.words}.weight")
    return ops.EncoderPlan(
        hidden=sizes.hidden,
        context=sizes.context,
        vocab_size=words.shape[0],
        buffers={
            "x": sizes.hidden,
            "qkv": sizes.queries + 2 * sizes.keys,
            "attention": sizes.queries,
            "up": 2 * sizes.ffn,
        },
        operations=(
            ops.Embed(f"{names.words}.weight", "x"),
            *(operation for i in range(sizes.layers) for operation in _layer(names, sizes, i)),
            ops.Quantize("x", f"{names.norm}.weight", sizes.epsilon, keep=True),
        ),
        pooling=pooling,
        head=head,
    )


def _layer(names: Names, sizes: Shape, i: int) -> tuple[ops.Operation, ...]:
    heads, kv_heads, head_dim, epsilon = sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.epsilon

    def weight(name: str) -> str:
        return f"{name.format(i=i)}.weight"

    def linear(name: str, target: str, offset: int = 0) -> ops.Projection:
        return ops.Projection(weight(name), target, offset)

    return (
        ops.Quantize("x", weight(names.input_norm), epsilon),
        ops.Linear(
            (
                linear(names.query, "qkv"),
                linear(names.key, "qkv", sizes.queries),
                linear(names.value, "qkv", sizes.queries + sizes.keys),
            )
        ),
        ops.HeadNorm("qkv", 0, sizes.queries, heads, weight(names.query_norm), epsilon),
        ops.HeadNorm("qkv", sizes.queries, sizes.keys, kv_heads, weight(names.key_norm), epsilon),
        ops.Rotate("qkv", heads + kv_heads, head_dim, sizes.rope),
        ops.EncoderAttention("qkv", "attention", heads, kv_heads, head_dim**-0.5, causal=True),
        ops.Quantize("attention"),
        ops.Linear((linear(names.output, "x"),), accumulate=True),
        ops.Quantize("x", weight(names.ffn_norm), epsilon),
        ops.Linear((linear(names.gate, "up"), linear(names.up, "up", sizes.ffn))),
        ops.Gated("up", sizes.ffn),
        ops.Linear((linear(names.down, "x"),), accumulate=True),
    )
