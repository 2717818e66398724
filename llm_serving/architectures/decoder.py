"""The shape most decoders share: norm, attention, norm, gated feed-forward (Touvron et al. 2023)."""

from __future__ import annotations

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


def describe_decoder(checkpoint: Checkpoint, *, interleaved: bool, qkv_bias: bool) -> ops.ModelPlan:
    """Plan of a pre-norm decoder with grouped queries, rotary positions and SwiGLU.

    `interleaved`: query and key rows stand as rotary pairs in the file.
    Raises: CheckpointError when a hyperparameter is missing or out of range.
    """
    hidden = _positive(checkpoint, "embedding_length")
    layers = _positive(checkpoint, "block_count")
    query_heads = _positive(checkpoint, "attention.head_count")
    kv_heads = _positive(checkpoint, "attention.head_count_kv", query_heads)
    head_dim = _positive(checkpoint, "attention.key_length", hidden // query_heads)
    ffn = _positive(checkpoint, "feed_forward_length")
    epsilon = float(checkpoint.hyper("attention.layer_norm_rms_epsilon", 1e-5))
    rope = _rope(checkpoint, head_dim)
    embedding = checkpoint.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"The model file '{checkpoint.path}' has no tensor 'token_embd.weight'.")
    if query_heads % kv_heads or head_dim % 8 or rope.rotated % 2 or rope.rotated > head_dim:
        raise CheckpointError(
            f"{query_heads} query heads over {kv_heads} key heads of size {head_dim} "
            f"({rope.rotated} rotated) is a shape the engine does not run."
        )
    vocab = embedding.shape[0]
    queries, keys = query_heads * head_dim, kv_heads * head_dim
    pairs = head_dim if interleaved else 0
    if interleaved and rope.rotated != head_dim:
        raise CheckpointError(
            f"Rotating {rope.rotated} of {head_dim} interleaved dimensions is not supported."
        )

    def layer(i: int) -> tuple[ops.Operation, ...]:
        block = f"blk.{i}."

        def projection(name: str, offset: int, pairs: int = 0) -> ops.Projection:
            bias = f"{block}{name}.bias" if qkv_bias else None
            return ops.Projection(f"{block}{name}.weight", "qkv", offset, bias, pairs)

        return (
            ops.Quantize("x", f"{block}attn_norm.weight", epsilon),
            ops.Linear(
                (
                    projection("attn_q", 0, pairs),
                    projection("attn_k", queries, pairs),
                    projection("attn_v", queries + keys),
                )
            ),
            ops.RopeStore("qkv", i),
            ops.Attention("qkv", "attention", i, head_dim**-0.5),
            ops.Quantize("attention"),
            ops.Linear((ops.Projection(f"{block}attn_output.weight", "x"),), accumulate=True),
            ops.Quantize("x", f"{block}ffn_norm.weight", epsilon),
            ops.Linear(
                (
                    ops.Projection(f"{block}ffn_gate.weight", "gate_up"),
                    ops.Projection(f"{block}ffn_up.weight", "gate_up", ffn),
                )
            ),
            ops.GatedSilu("gate_up", ffn),
            ops.Linear((ops.Projection(f"{block}ffn_down.weight", "x"),), accumulate=True),
        )

    head = "output.weight" if "output.weight" in checkpoint.tensors else "token_embd.weight"
    return ops.ModelPlan(
        vocab_size=vocab,
        max_context=_positive(checkpoint, "context_length", 2048),
        layers=layers,
        query_heads=query_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope=rope,
        buffers={
            "x": hidden,
            "qkv": queries + 2 * keys,
            "attention": queries,
            "gate_up": 2 * ffn,
            "last": hidden,
            "logits": vocab,
        },
        operations=(
            ops.Embed("token_embd.weight", "x"),
            *(operation for i in range(layers) for operation in layer(i)),
            ops.SelectRows("x", "last"),
            ops.Quantize("last", "output_norm.weight", epsilon),
            ops.Linear((ops.Projection(head, "logits"),)),
        ),
    )


def _positive(checkpoint: Checkpoint, key: str, default: int | None = None) -> int:
    value = checkpoint.hyper(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise CheckpointError(
            f"'{checkpoint.architecture}.{key}' in '{checkpoint.path}' is {value!r}; "
            "a positive integer is needed."
        )
    return value


def _rope(checkpoint: Checkpoint, head_dim: int) -> ops.Rope:
    scaling = checkpoint.hyper("rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise CheckpointError(
            f"Rotary scaling '{scaling}' in '{checkpoint.path}' is not supported; none and linear are."
        )
    factor = float(checkpoint.hyper("rope.scaling.factor", 1.0)) if scaling == "linear" else 1.0
    theta = float(checkpoint.hyper("rope.freq_base", 10000.0))
    if not (theta > 0 and factor > 0):
        raise CheckpointError(
            f"The rotary base {theta} or factor {factor} in '{checkpoint.path}' is not positive."
        )
    factors = "rope_freqs.weight" if "rope_freqs.weight" in checkpoint.tensors else None
    return ops.Rope(theta, _positive(checkpoint, "rope.dimension_count", head_dim), factor, factors)
