"""Gemma 3, text only, from GGUF files: windows in five of six layers, norms before and behind each part.

Gemma Team 2025. GGUF files hold norms' weights with the one added that the model's own code adds.
"""

from __future__ import annotations

from llm_serving.architectures import gguf_keys
from llm_serving.architectures.decoder_shape import Defaults, Shape, read_names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

_DEFAULTS = Defaults(theta=1000000.0, epsilon=1e-6, context=32768)
_LOCAL_THETA = 10000.0  # of layers with a window
_GLOBAL_EVERY = 6  # layers; the last of six sees everything
_LARGEST = 62  # layers of the 27 B model, which scales queries by its width


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a directory, or a size that is missing or not one that the engine runs."""
    if checkpoint.format != "gguf":
        raise CheckpointError(f"'{checkpoint.path}': the engine runs Gemma 3 from GGUF files only.")
    shape = read_shape(checkpoint, _DEFAULTS)
    window = gguf_keys.positive(checkpoint, "attention.sliding_window", 512)
    local = ops.Rope(gguf_keys.number(checkpoint, "rope.freq_base_swa", _LOCAL_THETA), shape.rope.rotated)
    width = shape.hidden // shape.heads if shape.layers == _LARGEST else shape.head_dim
    vocab = checkpoint.tensor("token_embd.weight").shape[0]

    def layer(i: int) -> tuple[ops.Operation, ...]:
        is_global = i % _GLOBAL_EVERY == _GLOBAL_EVERY - 1
        return _layer(
            checkpoint, shape, i, width**-0.5, None if is_global else local, 0 if is_global else window
        )

    return ops.ModelPlan(
        vocab_size=vocab,
        max_context=shape.context,
        layers=shape.layers,
        query_heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        rope=shape.rope,
        buffers={
            "x": shape.hidden,
            "qkv": shape.queries + 2 * shape.keys,
            "attention": shape.queries,
            "gate_up": 2 * shape.ffn,
            "part": shape.hidden,
            "last": shape.hidden,
            "logits": vocab,
        },
        operations=(
            ops.Embed("token_embd.weight", "x", scale=shape.hidden**0.5),
            *(operation for i in range(shape.layers) for operation in layer(i)),
            ops.SelectRows("x", "last"),
            ops.Quantize("last", "output_norm.weight", shape.epsilon),
            ops.Linear((ops.Projection("token_embd.weight", "logits"),)),
        ),
    )


def _layer(
    checkpoint: Checkpoint, shape: Shape, i: int, scale: float, rope: ops.Rope | None, window: int
) -> tuple[ops.Operation, ...]:
    names, epsilon = read_names(checkpoint), shape.epsilon

    def of(name: str) -> str:
        return f"{name.format(i=i)}.weight"

    def normed_part(norm: str) -> tuple[ops.Operation, ...]:
        return ops.Quantize("part", f"blk.{i}.{norm}.weight", epsilon, keep=True), ops.Copy(
            "part", "x", accumulate=True
        )

    return (
        ops.Quantize("x", of(names.input_norm), epsilon),
        ops.Linear(
            (
                ops.Projection(of(names.query), "qkv"),
                ops.Projection(of(names.key), "qkv", shape.queries),
                ops.Projection(of(names.value), "qkv", shape.queries + shape.keys),
            )
        ),
        ops.HeadNorm("qkv", 0, shape.heads, of(names.query_norm), epsilon),
        ops.HeadNorm("qkv", shape.queries, shape.kv_heads, of(names.key_norm), epsilon),
        ops.RopeStore("qkv", i, rope),
        ops.Attention("qkv", "attention", i, scale, window),
        ops.Quantize("attention"),
        ops.Linear((ops.Projection(of(names.output), "part"),)),
        *normed_part("post_attention_norm"),
        ops.Quantize("x", of(names.ffn_norm), epsilon),
        ops.Linear(
            (ops.Projection(of(names.gate), "gate_up"), ops.Projection(of(names.up), "gate_up", shape.ffn))
        ),
        ops.Gated("gate_up", shape.ffn, "gelu_tanh"),
        ops.Linear((ops.Projection(of(names.down), "part"),)),
        *normed_part("post_ffw_norm"),
    )
