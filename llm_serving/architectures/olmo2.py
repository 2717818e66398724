"""OLMo 2: norms behind each part and none before; whole queries and keys are normed (OLMo Team 2025)."""

from __future__ import annotations

from llm_serving.architectures.config_json import require
from llm_serving.architectures.decoder import add_normed, plan_of
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.architectures.gguf_keys import problem
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for biases, or windows, which GGUF files of OLMo 3 have under this name."""
    names = read_names(checkpoint)
    behind_attention, behind_ffn = "blk.{i}.post_attention_norm", "blk.{i}.post_ffw_norm"
    if window := checkpoint.hyper("attention.sliding_window"):
        raise problem(checkpoint, "attention.sliding_window", window, "windows are not supported")
    if checkpoint.format != "gguf":
        require(checkpoint, "attention_bias", (False,), False)
        behind_attention = names.ffn_norm  # by its name, which others have before the feed-forward part
        behind_ffn = names.ffn_norm.replace("post_attention", "post_feedforward")
    shape = read_shape(checkpoint, Defaults())
    layers = [_layer(i, names, shape, behind_attention, behind_ffn) for i in range(shape.layers)]
    return plan_of(checkpoint, names, shape, layers, more_buffers={"part": shape.hidden})


def _layer(
    i: int, names: Names, shape: Shape, behind_attention: str, behind_ffn: str
) -> tuple[ops.Operation, ...]:
    def of(name: str) -> str:
        return f"{name.format(i=i)}.weight"

    return (
        ops.Quantize("x"),
        ops.Linear(
            (
                ops.Projection(of(names.query), "qkv"),
                ops.Projection(of(names.key), "qkv", shape.queries),
                ops.Projection(of(names.value), "qkv", shape.queries + shape.keys),
            )
        ),
        ops.HeadNorm("qkv", 0, shape.queries, 1, of(names.query_norm), shape.epsilon),
        ops.HeadNorm("qkv", shape.queries, shape.keys, 1, of(names.key_norm), shape.epsilon),
        ops.RopeStore("qkv", i),
        ops.Attention("qkv", "attention", i, shape.head_dim**-0.5),
        ops.Quantize("attention"),
        ops.Linear((ops.Projection(of(names.output), "part"),)),
        *add_normed(of(behind_attention), shape.epsilon),
        ops.Quantize("x"),
        ops.Linear(
            (ops.Projection(of(names.gate), "gate_up"), ops.Projection(of(names.up), "gate_up", shape.ffn))
        ),
        ops.Gated("gate_up", shape.ffn),
        ops.Linear((ops.Projection(of(names.down), "part"),)),
        *add_normed(of(behind_ffn), shape.epsilon),
    )
