"""A Gated DeltaNet layer up to its feed-forward part, and gated attention (Yang et al. 2024, Qwen3-Next)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.architectures.decoder_shape import Names, Shape
from llm_serving.native import ops
from llm_serving.native.delta_net import DeltaHeads

ROWS, MIXED, FOUND, GATES = "x", "mixed", "found", "gates"  # buffers


@dataclass(frozen=True, slots=True)
class DeltaNames:
    """Whole tensor names with `{i}`. `inputs` fill a row as `DeltaHeads` has it, each with what it takes."""

    inputs: tuple[tuple[str, ops.Stripe | None, int], ...]  # and how many rows
    taps: str
    rates: str
    bias: str
    norm: str
    output: str
    is_logarithm: bool


def separate(
    qkv: str, gate: str, beta: str, decay: str, heads: DeltaHeads
) -> tuple[tuple[str, ops.Stripe | None, int], ...]:
    """`DeltaNames.inputs` of four matrices that stand as rows do."""
    return (
        (qkv, None, heads.channels),
        (gate, None, heads.outputs),
        (beta, None, heads.values),
        (decay, None, heads.values),
    )


def delta_buffers(shape: Shape, heads: DeltaHeads) -> dict[str, int]:
    return {MIXED: heads.width, FOUND: heads.outputs, GATES: shape.queries}


def delta_layer(
    index: int, names: Names, own: DeltaNames, shape: Shape, heads: DeltaHeads
) -> tuple[ops.Operation, ...]:
    """Adds to the rows."""

    def name(pattern: str) -> str:
        return pattern.format(i=index)

    inputs, offset = [], 0
    for tensor, part, rows in own.inputs:
        # How much a state fades and takes up is multiplied over all tokens: these few rows are fine.
        fine = rows == heads.values
        inputs.append(ops.Projection(name(tensor), MIXED, offset, fine=fine, part=part))
        offset += rows
    return (
        ops.Quantize(ROWS, name(f"{names.input_norm}.weight"), shape.epsilon),
        ops.Linear(tuple(inputs)),
        ops.DeltaInputs(MIXED, heads, name(own.taps), name(own.rates), name(own.bias), own.is_logarithm),
        ops.DeltaRule(MIXED, FOUND, heads),
        ops.OutputGate(FOUND, MIXED, heads.channels, "silu", name(own.norm), heads.value_dim, shape.epsilon),
        ops.Linear((ops.Projection(name(own.output), ROWS),), accumulate=True),
    )


def gated_attention(index: int, layer: int, names: Names, shape: Shape) -> tuple[ops.Operation, ...]:
    """Adds to the rows; rows of each query head are followed by those of its gate. `layer` is the cache's."""

    def weight(pattern: str) -> str:
        return f"{pattern.format(i=index)}.weight"

    dim, query = shape.head_dim, weight(names.query)
    return (
        ops.Quantize(ROWS, weight(names.input_norm), shape.epsilon),
        ops.Linear(
            (
                ops.Projection(query, "qkv", part=ops.Stripe(0, dim, 2 * dim)),
                ops.Projection(weight(names.key), "qkv", shape.queries),
                ops.Projection(weight(names.value), "qkv", shape.queries + shape.keys),
                ops.Projection(query, GATES, part=ops.Stripe(dim, dim, 2 * dim)),
            )
        ),
        ops.HeadNorm("qkv", 0, shape.queries, shape.heads, weight(names.query_norm), shape.epsilon),
        ops.HeadNorm("qkv", shape.queries, shape.keys, shape.kv_heads, weight(names.key_norm), shape.epsilon),
        ops.RopeStore("qkv", layer),
        ops.Attention("qkv", "attention", layer, dim**-0.5),
        ops.OutputGate("attention", GATES),
        ops.Linear((ops.Projection(weight(names.output), ROWS),), accumulate=True),
    )
