"""nomic-embed-text: BERT with rotary positions and SwiGLU instead of learned positions and gelu."""

from __future__ import annotations

from llm_serving.architectures.config_json import number, positive, prefix_of, require, rope_theta
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Config keys as nomic-ai publishes them, or as transformers writes them; tensor names are the same.

    Raises: CheckpointError for a variant (pre-norm, interleaved rotation) that is not computed here.
    """
    require(checkpoint, "activation_function", ("swiglu",), "swiglu")
    require(checkpoint, "hidden_act", ("silu",), "silu")
    require(checkpoint, "prenorm", (False,), False)
    require(checkpoint, "rotary_emb_interleaved", (False,), False)
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    hidden = positive(checkpoint, "n_embd", "hidden_size")
    heads = positive(checkpoint, "n_head", "num_attention_heads")
    ffn = positive(checkpoint, "n_inner", "intermediate_size", default=4 * hidden)
    epsilon = number(checkpoint, "layer_norm_epsilon", "layer_norm_eps", default=1e-12)
    head_dim = hidden // heads
    layers = positive(checkpoint, "n_layer", "num_hidden_layers")
    rope = ops.Rope(rope_theta(checkpoint, "rotary_emb_base", default=10000.0), head_dim)
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

    head = _head(checkpoint, prefix)
    words = f"{prefix}embeddings.word_embeddings.weight"
    return ops.EncoderPlan(
        hidden=hidden,
        context=context,
        vocab_size=checkpoint.tensors[words].shape[0],
        buffers={"x": hidden, "qkv": 3 * hidden, "attention": hidden, "up": 2 * ffn},
        operations=(
            ops.Embed(words, "x"),
            *_segments(checkpoint, prefix, context),
            norm("emb_ln"),
            *(operation for i in range(layers) for operation in layer(i)),
        ),
        pooling="mean" if head is None else "cls",
        segments=positive(checkpoint, "type_vocab_size", default=1),
        head=head,
    )


def _head(checkpoint: Checkpoint, prefix: str) -> ops.Head | None:
    return (
        ops.Head("classifier", f"{prefix}pooler.dense") if "classifier.weight" in checkpoint.tensors else None
    )


def _segments(checkpoint: Checkpoint, prefix: str, context: int) -> tuple[ops.Operation, ...]:
    name = f"{prefix}embeddings.token_type_embeddings.weight"
    return (ops.AddPositions(None, "x", context, name),) if name in checkpoint.tensors else ()
