"""nomic-embed-text: BERT with rotary positions and SwiGLU instead of learned positions and gelu."""

from __future__ import annotations

from llm_serving.architectures.config_json import number, positive, prefix_of, require
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Names and keys as in the directories nomic-ai publishes.

    Raises: CheckpointError for a variant (pre-norm, interleaved rotation) that is not computed here.
    """
    require(checkpoint, "activation_function", ("swiglu",), "swiglu")
    require(checkpoint, "prenorm", (False,), False)
    require(checkpoint, "rotary_emb_interleaved", (False,), False)
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    hidden = positive(checkpoint, "n_embd", "hidden_size")
    heads = positive(checkpoint, "n_head", "num_attention_heads")
    ffn = positive(checkpoint, "n_inner", "intermediate_size", default=4 * hidden)
    epsilon = number(checkpoint, "layer_norm_epsilon", "layer_norm_eps", default=1e-12)
    head_dim = hidden // heads
    rope = ops.Rope(number(checkpoint, "rotary_emb_base", default=10000.0), head_dim)
    biased = f"{prefix}encoder.layers.0.attn.Wqkv.bias" in checkpoint.tensors
    context = positive(checkpoint, "n_positions", "max_position_embeddings", default=2048)

    def norm(name: str) -> ops.Quantize:
        return ops.Quantize("x", f"{prefix}{name}.weight", epsilon, True, f"{prefix}{name}.bias", keep=True)

    def linear(name: str, target: str, offset: int = 0) -> ops.Projection:
        bias = f"{prefix}{name}.bias" if biased else None
        return ops.Projection(f"{prefix}{name}.weight", target, offset, bias)

    def layer(i: int) -> tuple[ops.Operation, ...]:
        at = f"encoder.layers.{i}."
        return (
            ops.Linear((linear(f"{at}attn.Wqkv", "qkv"),)),
            ops.Rotate("qkv", 2 * heads, head_dim, rope),
            ops.EncoderAttention("qkv", "attention", heads, heads, head_dim**-0.5),
            ops.Quantize("attention"),
            ops.Linear((linear(f"{at}attn.out_proj", "x"),), accumulate=True),
            norm(f"{at}norm1"),
            ops.Linear((linear(f"{at}mlp.fc12", "up"), linear(f"{at}mlp.fc11", "up", ffn))),
            ops.Gated("up", ffn),
            ops.Linear((linear(f"{at}mlp.fc2", "x"),), accumulate=True),
            norm(f"{at}norm2"),
        )

    segments = f"{prefix}embeddings.token_type_embeddings.weight"
    segment_rows: tuple[ops.Operation, ...] = ()
    if segments in checkpoint.tensors:
        segment_rows = (ops.AddPositions(None, "x", context, segments),)
    return ops.EncoderPlan(
        hidden=hidden,
        context=context,
        vocab_size=checkpoint.tensors[f"{prefix}embeddings.word_embeddings.weight"].shape[0],
        buffers={"x": hidden, "qkv": 3 * hidden, "attention": hidden, "up": 2 * ffn},
        operations=(
            ops.Embed(f"{prefix}embeddings.word_embeddings.weight", "x"),
            *segment_rows,
            norm("emb_ln"),
            *(
                operation
                for i in range(positive(checkpoint, "n_layer", "num_hidden_layers"))
                for operation in layer(i)
            ),
        ),
        pooling="mean",
    )
