"""EmbeddingGemma: Gemma 3 that sees in both directions, read as the mean of its rows (Vera et al. 2025)."""

from __future__ import annotations

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder_shape import Names, Shape, read_shape
from llm_serving.architectures.gemma import gemma_parts
from llm_serving.architectures.gemma3 import DEFAULTS, GLOBAL_EVERY, local_theta
from llm_serving.architectures.layer_kinds import global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops

_GGUF_DENSE = ("dense_2", "dense_3")  # the layers behind pooling, which a directory's modules tell of


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for a Gemma that is a language model, or what the engine does not run."""
    is_gguf = checkpoint.format == "gguf"
    shape = read_shape(checkpoint, DEFAULTS)
    if not is_gguf:
        config_json.require(checkpoint, "use_bidirectional_attention", (True,), None)
        for key in ("attn_logit_softcapping", "attention_bias"):
            config_json.require(checkpoint, key, (None, False), None)
    names, norms_behind, scale, window = gemma_parts(checkpoint, shape, window=512)
    seen = ops.WindowBias(window // 2)  # half of it on each side
    local = ops.Rope(local_theta(checkpoint), shape.rope.rotated)
    open_layers = global_layers(checkpoint, shape.layers, GLOBAL_EVERY)
    kinds = [(shape.rope, None) if i in open_layers else (local, seen) for i in range(shape.layers)]
    return ops.EncoderPlan(
        hidden=shape.hidden,
        context=shape.context,
        vocab_size=checkpoint.tensor(f"{names.words}.weight").shape[0],
        buffers={
            "x": shape.hidden,
            "qkv": shape.queries + 2 * shape.keys,
            "attention": shape.queries,
            "up": 2 * shape.ffn,
            "part": shape.hidden,
        },
        operations=(
            ops.Embed(f"{names.words}.weight", "x", scale=shape.hidden**0.5),
            *(
                operation
                for i, (rope, bias) in enumerate(kinds)
                for operation in _layer(names, norms_behind, shape, scale, rope, bias, i)
            ),
            ops.Quantize("x", f"{names.norm}.weight", shape.epsilon, keep=True),
        ),
        pooling=gguf_keys.pooling(checkpoint, "mean") if is_gguf else "mean",
        norm_offset=0.0 if is_gguf else 1.0,
        dense=tuple(name for name in _GGUF_DENSE if is_gguf and f"{name}.weight" in checkpoint.tensors),
    )


def _layer(
    names: Names,
    norms_behind: tuple[str, str],
    shape: Shape,
    scale: float,
    rope: ops.Rope,
    bias: ops.WindowBias | None,
    i: int,
) -> tuple[ops.Operation, ...]:
    heads, kv_heads, head_dim, epsilon = shape.heads, shape.kv_heads, shape.head_dim, shape.epsilon

    def weight(name: str) -> str:
        return f"{name.format(i=i)}.weight"

    def linear(name: str, target: str, offset: int = 0) -> ops.Projection:
        return ops.Projection(weight(name), target, offset)

    def add(norm: str) -> tuple[ops.Operation, ...]:
        return ops.Quantize("part", weight(norm), epsilon, keep=True), ops.Copy("part", "x", accumulate=True)

    return (
        ops.Quantize("x", weight(names.input_norm), epsilon),
        ops.Linear(
            (
                linear(names.query, "qkv"),
                linear(names.key, "qkv", shape.queries),
                linear(names.value, "qkv", shape.queries + shape.keys),
            )
        ),
        ops.HeadNorm("qkv", 0, shape.queries, heads, weight(names.query_norm), epsilon),
        ops.HeadNorm("qkv", shape.queries, shape.keys, kv_heads, weight(names.key_norm), epsilon),
        ops.Rotate("qkv", heads + kv_heads, head_dim, rope),
        ops.EncoderAttention("qkv", "attention", heads, kv_heads, scale, bias=bias),
        ops.Quantize("attention"),
        ops.Linear((linear(names.output, "part"),)),
        *add(norms_behind[0]),
        ops.Quantize("x", weight(names.ffn_norm), epsilon),
        ops.Linear((linear(names.gate, "up"), linear(names.up, "up", shape.ffn))),
        ops.Gated("up", shape.ffn, "gelu_tanh"),
        ops.Linear((linear(names.down, "part"),)),
        *add(norms_behind[1]),
    )
