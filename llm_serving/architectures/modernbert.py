"""ModernBERT: pre-norm, rotary, gated gelu, sliding windows in two of three layers (Warner et al. 2024)."""

from __future__ import annotations

from typing import Any

from llm_serving.architectures.config_json import number, positive, prefix_of, require, rope_theta
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for another activation."""
    require(checkpoint, "hidden_activation", ("gelu",), "gelu")
    prefix = prefix_of(checkpoint, "embeddings.tok_embeddings.weight")
    hidden = positive(checkpoint, "hidden_size")
    heads = positive(checkpoint, "num_attention_heads")
    ffn = positive(checkpoint, "intermediate_size")
    layers = positive(checkpoint, "num_hidden_layers")
    epsilon = number(checkpoint, "norm_eps", default=1e-5)
    window = ops.WindowBias(positive(checkpoint, "local_attention", default=128) // 2)
    kinds = _layer_kinds(checkpoint, layers)
    head_dim = hidden // heads

    def tensor(name: str) -> str | None:
        return f"{prefix}{name}" if f"{prefix}{name}" in checkpoint.tensors else None

    def norm(name: str, keep: bool = False) -> ops.Quantize:
        """Without the tensor there is no norm: the first layer reads the normed embedding."""
        weight, bias = tensor(f"{name}.weight"), tensor(f"{name}.bias")
        return ops.Quantize("x", weight, epsilon, weight is not None, bias, keep=keep)

    def linear(name: str, target: str) -> ops.Projection:
        return ops.Projection(f"{prefix}{name}.weight", target, 0, tensor(f"{name}.bias"))

    def layer(i: int) -> tuple[ops.Operation, ...]:
        at = f"layers.{i}."
        local = kinds[i] == "sliding_attention"
        rope = ops.Rope(_theta(checkpoint, kinds[i]), head_dim)
        return (
            norm(f"{at}attn_norm"),
            ops.Linear((linear(f"{at}attn.Wqkv", "qkv"),)),
            ops.Rotate("qkv", 2 * heads, head_dim, rope),
            ops.EncoderAttention(
                "qkv", "attention", heads, heads, head_dim**-0.5, bias=window if local else None
            ),
            ops.Quantize("attention"),
            ops.Linear((linear(f"{at}attn.Wo", "x"),), accumulate=True),
            norm(f"{at}mlp_norm"),
            ops.Linear((linear(f"{at}mlp.Wi", "up"),)),
            ops.Gated("up", ffn, gelu=True),
            ops.Linear((linear(f"{at}mlp.Wo", "x"),), accumulate=True),
        )

    head = _head(checkpoint, epsilon)
    pooling = str(checkpoint.metadata.get("classifier_pooling", "cls")) if head else "mean"
    return ops.EncoderPlan(
        hidden=hidden,
        context=positive(checkpoint, "max_position_embeddings", default=8192),
        vocab_size=checkpoint.tensors[f"{prefix}embeddings.tok_embeddings.weight"].shape[0],
        buffers={"x": hidden, "qkv": 3 * hidden, "attention": hidden, "up": 2 * ffn},
        operations=(
            ops.Embed(f"{prefix}embeddings.tok_embeddings.weight", "x"),
            norm("embeddings.norm", keep=True),
            *(operation for i in range(layers) for operation in layer(i)),
            norm("final_norm", keep=True),
        ),
        pooling=pooling,
        head=head,
    )


def _head(checkpoint: Checkpoint, epsilon: float) -> ops.Head | None:
    if "classifier.weight" not in checkpoint.tensors:
        return None
    return ops.Head("classifier", "head.dense", "gelu", norm="head.norm", epsilon=epsilon)


def _layer_kinds(checkpoint: Checkpoint, layers: int) -> list[str]:
    kinds: Any = checkpoint.metadata.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return [str(kind) for kind in kinds]
    every = positive(checkpoint, "global_attn_every_n_layers", default=3)
    return ["sliding_attention" if i % every else "full_attention" for i in range(layers)]


def _theta(checkpoint: Checkpoint, kind: str) -> float:
    if kind == "sliding_attention":
        return rope_theta(checkpoint, "local_rope_theta", default=10000.0, kind=kind)
    return rope_theta(checkpoint, "global_rope_theta", default=160000.0, kind=kind)
