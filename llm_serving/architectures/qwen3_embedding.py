"""Qwen3-Embedding: a causal decoder whose last token's row is the embedding (Zhang et al. 2025)."""

from __future__ import annotations

from llm_serving.architectures.config_json import number, positive, prefix_of, require, rope_theta
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for sliding windows or another activation."""
    require(checkpoint, "hidden_act", ("silu",), "silu")
    require(checkpoint, "use_sliding_window", (False,), False)
    prefix = prefix_of(checkpoint, "embed_tokens.weight")
    hidden = positive(checkpoint, "hidden_size")
    heads = positive(checkpoint, "num_attention_heads")
    kv_heads = positive(checkpoint, "num_key_value_heads", default=heads)
    head_dim = positive(checkpoint, "head_dim", default=hidden // heads)
    ffn = positive(checkpoint, "intermediate_size")
    epsilon = number(checkpoint, "rms_norm_eps", default=1e-6)
    rope = ops.Rope(rope_theta(checkpoint, "rope_theta", default=1000000.0), head_dim)
    queries, keys = heads * head_dim, kv_heads * head_dim

    def layer(i: int) -> tuple[ops.Operation, ...]:
        at = f"{prefix}layers.{i}."

        def projection(name: str, target: str, offset: int = 0) -> ops.Projection:
            return ops.Projection(f"{at}{name}.weight", target, offset)

        return (
            ops.Quantize("x", f"{at}input_layernorm.weight", epsilon),
            ops.Linear(
                (
                    projection("self_attn.q_proj", "qkv"),
                    projection("self_attn.k_proj", "qkv", queries),
                    projection("self_attn.v_proj", "qkv", queries + keys),
                )
            ),
            ops.HeadNorm("qkv", 0, heads, f"{at}self_attn.q_norm.weight", epsilon),
            ops.HeadNorm("qkv", queries, kv_heads, f"{at}self_attn.k_norm.weight", epsilon),
            ops.Rotate("qkv", heads + kv_heads, head_dim, rope),
            ops.EncoderAttention("qkv", "attention", heads, kv_heads, head_dim**-0.5, causal=True),
            ops.Quantize("attention"),
            ops.Linear((projection("self_attn.o_proj", "x"),), accumulate=True),
            ops.Quantize("x", f"{at}post_attention_layernorm.weight", epsilon),
            ops.Linear((projection("mlp.gate_proj", "up"), projection("mlp.up_proj", "up", ffn))),
            ops.Gated("up", ffn),
            ops.Linear((projection("mlp.down_proj", "x"),), accumulate=True),
        )

    return ops.EncoderPlan(
        hidden=hidden,
        context=positive(checkpoint, "max_position_embeddings", default=32768),
        vocab_size=checkpoint.tensors[f"{prefix}embed_tokens.weight"].shape[0],
        buffers={"x": hidden, "qkv": queries + 2 * keys, "attention": queries, "up": 2 * ffn},
        operations=(
            ops.Embed(f"{prefix}embed_tokens.weight", "x"),
            *(operation for i in range(positive(checkpoint, "num_hidden_layers")) for operation in layer(i)),
            ops.Quantize("x", f"{prefix}norm.weight", epsilon, keep=True),
        ),
        pooling="last",
        head=ops.Head("score") if "score.weight" in checkpoint.tensors else None,
    )
