"""One layer of a decoder: attention, then a gated feed-forward part or a mixture of experts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from llm_serving.architectures.decoder_shape import Names, Shape
from llm_serving.architectures.experts import ExpertNames, ExpertSizes, mixture, router_of
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class Scales:
    """What numbers are multiplied with on their way."""

    words: float = 1.0
    scores: float | None = None  # None: by the size of heads
    parts: float = 1.0  # what attention and feed-forward add
    logits: float = 1.0


@dataclass(frozen=True, slots=True)
class Kind:
    """How a family differs from the others."""

    qkv_bias: bool = False
    output_bias: bool = False  # of attention
    output_gate: str | None = None  # as in `Names`: sigmoid of its rows multiplies what attention gives
    sinks: str | None = None  # tensor name with `{i}`: as in `Attention`
    head_norm: bool = False  # heads of queries and keys are normed before they rotate
    rotated_norm: bool = False  # heads are normed after they rotate
    whole_norm: bool = False  # all heads of queries are normed at once, and all of keys
    interleaved: bool = False  # query and key rows stand as rotary pairs in the file
    experts: tuple[ExpertNames, ExpertSizes] | None = None  # in place of every feed-forward part
    dense: frozenset[int] = frozenset()  # but of these layers
    routed_first: bool = False  # experts are chosen by what comes into a layer, before any norm
    fused_inputs: bool = False  # queries, keys and values are one matrix,
    grouped_inputs: bool = False  # or one where a key head's queries stand before its keys and values,
    stripes: tuple[ops.Stripe, ops.Stripe, ops.Stripe] | None = None  # or where they stand like this
    fused_gates: bool = False  # gates and what they open are one
    still: frozenset[int] = frozenset()  # layers that do not rotate
    scales: Scales = Scales()
    norms_before: bool = True  # each part
    norms_behind: tuple[str, str] | None = None  # attention and feed-forward, as in `Names`
    norm_offset: float = 0.0  # added to the weights of all norms
    layer_norm: bool = False  # norms of rows subtract the mean; those without a name have no weights
    norm_bias: bool = False  # and add a bias
    parallel: bool = False  # attention and feed-forward read the same rows, of the first norm,
    parallel_norms: bool = False  # or each of its own
    window: int = 0  # > 0: a token sees so many, itself counted in,
    open: frozenset[int] = frozenset()  # but for these layers, where it sees all before it
    local: ops.Rope | None = None  # of layers with a window, where others rotate otherwise
    activation: str = "silu"
    gated: bool = True  # else the activation is of `up` alone
    bends: tuple[tuple[float, float, float], ...] = ()  # of each layer, then: as in `Xielu`
    ffn_bias: bool = False
    head_bias: bool = False  # of logits
    growth: ops.Rope | None = None  # of queries with their positions, as in `Rope`; it turns nothing
    score_cap: float = 0.0  # > 0: as in `Attention`
    falling: ops.LinearBias | None = None  # of scores with the distance
    clip: float = 0.0  # > 0: queries, keys and values are kept within
    transposed: bool = False  # matrices of layers stand as inputs x outputs
    words_norm: bool = False  # embeddings are normed
    positions: int | None = None  # rows of learned positions before the first one, if there are such
    logit_cap: float = 0.0  # > 0: as in `SoftCap`


def layer(
    checkpoint: Checkpoint, index: int, names: Names, shape: Shape, kind: Kind, cache: int | None = None
) -> tuple[ops.Operation, ...]:
    """Operations on the buffers "x", "qkv", "attention" and "gate_up", and what `kind` needs beside them.

    `cache` is the layer's number among those that keep keys, where that is not `index`.
    """
    inputs = _inputs(index, names, shape, kind)
    attention = _attention(index, names, shape, kind, index if cache is None else cache)
    if kind.parallel and _has_experts(index, kind):
        return (
            *_kept(names.input_norm, index, shape, kind),
            ops.Linear(inputs),
            *_experts(checkpoint, index, shape, kind),
            *attention,
        )
    if kind.parallel:
        gates = _gates(index, names, shape, kind)
        behind = norm_of("x", names.ffn_norm.format(i=index), shape, kind), ops.Linear(gates)
        return (
            norm_of("x", names.input_norm.format(i=index), shape, kind),
            ops.Linear(inputs if kind.parallel_norms else (*inputs, *gates)),
            *(behind if kind.parallel_norms else ()),
            *attention,
            *_behind_gates(index, names, shape, kind),
        )
    return (
        *_routed_first(checkpoint, index, kind),
        _read(names.input_norm, index, shape, kind),
        ops.Linear((*inputs, *_output_gate(index, kind))),
        *attention,
        *feed_forward(checkpoint, index, names, shape, kind),
    )


def _routed_first(checkpoint: Checkpoint, index: int, kind: Kind) -> tuple[ops.Operation, ...]:
    if not kind.routed_first or kind.experts is None:
        return ()
    return ops.Quantize("x"), ops.Linear((router_of(checkpoint, *kind.experts, index),))


def norm_of(source: str, name: str, shape: Shape, kind: Kind, *, gain: float = 1.0) -> ops.Quantize:
    """The norm of a row that the next matrices read; `gain` multiplies its weights."""
    return ops.Quantize(
        source,
        f"{name}.weight" if name else None,
        shape.epsilon,
        kind.layer_norm,
        f"{name}.bias" if kind.norm_bias else None,
        gain=gain,
    )


def _attention(index: int, names: Names, shape: Shape, kind: Kind, cache: int) -> tuple[ops.Operation, ...]:
    """Behind queries, keys and values."""
    window = 0 if index in kind.open else kind.window
    scale = kind.scales.scores or shape.head_dim**-0.5
    rope = kind.local if window else None
    if index in kind.still or kind.rotated_norm:  # which rotated before
        rope = shape.rope.still
    sinks = kind.sinks and kind.sinks.format(i=index)
    width = shape.queries + 2 * shape.keys
    return (
        *([ops.Clamp("qkv", 0, width, (-kind.clip, kind.clip))] if kind.clip else []),
        *_head_norms(index, names, shape, kind),
        *([ops.Rotate("qkv", shape.heads, shape.head_dim, kind.growth)] if kind.growth else []),
        ops.RopeStore("qkv", cache, rope),
        ops.Attention("qkv", "attention", cache, scale, window, kind.score_cap, sinks, falling=kind.falling),
        ops.OutputGate("attention", "gates") if kind.output_gate else ops.Quantize("attention"),
        *_add(names.output, kind.norms_behind and kind.norms_behind[0], index, shape, kind, kind.output_bias),
    )


def _inputs(index: int, names: Names, shape: Shape, kind: Kind) -> tuple[ops.Projection, ...]:
    rotated = shape.rope.rotated if shape.rope.rotated < shape.head_dim else 0

    def projection(name: str, offset: int, *, in_pairs: bool = False) -> ops.Projection:
        bias = _bias(name, index) if kind.qkv_bias else None
        plain = _matrix(_weight(name, index), "qkv", offset, bias, kind)
        return replace(plain, interleaved=shape.head_dim, rotated=rotated) if in_pairs else plain

    stripes = _stripes(shape, kind)
    if stripes is None and kind.fused_inputs:
        return (projection(names.qkv, 0),)
    apart = (names.query, names.key, names.value) if stripes is None else (names.qkv,) * 3
    query, key, value = (
        projection(apart[0], 0, in_pairs=kind.interleaved),
        projection(apart[1], shape.queries, in_pairs=kind.interleaved),
        projection(apart[2], shape.queries + shape.keys),
    )
    if stripes is None:
        return query, key, value
    return tuple(replace(p, part=part) for p, part in zip((query, key, value), stripes, strict=True))


def _stripes(shape: Shape, kind: Kind) -> tuple[ops.Stripe, ops.Stripe, ops.Stripe] | None:
    """Where queries, keys and values stand in their matrix, unless it is one as it is, or three."""
    if kind.grouped_inputs:
        keys, queries = shape.head_dim, shape.queries // shape.kv_heads
    elif kind.fused_inputs and kind.interleaved:
        keys, queries = shape.keys, shape.queries
    else:
        return kind.stripes
    period = queries + 2 * keys
    return (
        ops.Stripe(0, queries, period),
        ops.Stripe(queries, keys, period),
        ops.Stripe(queries + keys, keys, period),
    )


def _output_gate(index: int, kind: Kind) -> tuple[ops.Projection, ...]:
    return (ops.Projection(_weight(kind.output_gate, index), "gates"),) if kind.output_gate else ()


def _head_norms(index: int, names: Names, shape: Shape, kind: Kind) -> tuple[ops.Operation, ...]:
    if not (kind.head_norm or kind.rotated_norm or kind.whole_norm):
        return ()
    heads, kv_heads = (1, 1) if kind.whole_norm else (shape.heads, shape.kv_heads)
    query, key = _weight(names.query_norm, index), _weight(names.key_norm, index)
    pairs = shape.rope.rotated if kind.interleaved else 0
    rotate = ops.Rotate("qkv", shape.heads + shape.kv_heads, shape.head_dim, shape.rope)
    return (
        *((rotate,) if kind.rotated_norm else ()),
        ops.HeadNorm("qkv", 0, shape.queries, heads, query, shape.epsilon, interleaved=pairs),
        ops.HeadNorm("qkv", shape.queries, shape.keys, kv_heads, key, shape.epsilon, interleaved=pairs),
    )


def feed_forward(
    checkpoint: Checkpoint, index: int, names: Names, shape: Shape, kind: Kind
) -> tuple[ops.Operation, ...]:
    """The second half of a layer: on "x", and "gate_up" or what `mixture` needs."""
    if _has_experts(index, kind):
        return *_kept(names.ffn_norm, index, shape, kind), *_experts(checkpoint, index, shape, kind)
    return (
        _read(names.ffn_norm, index, shape, kind),
        ops.Linear(_gates(index, names, shape, kind)),
        *_behind_gates(index, names, shape, kind),
    )


def _has_experts(index: int, kind: Kind) -> bool:
    return kind.experts is not None and index not in kind.dense


def _kept(norm: str, index: int, shape: Shape, kind: Kind) -> tuple[ops.Operation, ...]:
    """Normed rows in "normed", too, where experts read them one by one."""
    own = norm_of("normed", norm.format(i=index), shape, kind)
    return ops.Copy("x", "normed"), replace(own, keep=True)


def _experts(checkpoint: Checkpoint, index: int, shape: Shape, kind: Kind) -> tuple[ops.Operation, ...]:
    """Add what they make of "normed" to the rows."""
    assert kind.experts is not None
    names, sizes = kind.experts
    behind = kind.norms_behind and kind.norms_behind[1]
    target = "part" if behind or sizes.averaged else None
    own = mixture(checkpoint, names, sizes, index, "normed", target, routed=kind.routed_first)
    if sizes.averaged:
        return *own, ops.Copy("part", "part", scale=0.5), ops.Copy("part", "x", accumulate=True)
    return *own, *(_add_normed(behind, index, shape) if behind else ())


def _gates(index: int, names: Names, shape: Shape, kind: Kind) -> tuple[ops.Projection, ...]:
    def projection(name: str, offset: int = 0) -> ops.Projection:
        bias = _bias(name, index) if kind.ffn_bias else None
        return _matrix(_weight(name, index), "gate_up", offset, bias, kind)

    if kind.fused_gates:
        return (projection(names.gate_up),)
    return (
        (projection(names.gate), projection(names.up, shape.ffn)) if kind.gated else (projection(names.up),)
    )


def _behind_gates(index: int, names: Names, shape: Shape, kind: Kind) -> tuple[ops.Operation, ...]:
    activation: ops.Operation = ops.Gated("gate_up", shape.ffn, kind.activation)
    if kind.bends:
        activation = ops.Xielu("gate_up", *kind.bends[index])
    elif not kind.gated:
        activation = ops.Gelu("gate_up", kind.activation == "gelu_tanh")
        if kind.activation == "relu":
            activation = ops.Quantize("gate_up", within=(0.0, math.inf))
    norm = kind.norms_behind and kind.norms_behind[1]
    return (activation, *_add(names.down, norm, index, shape, kind, kind.ffn_bias))


def _matrix(tensor: str, target: str, offset: int, bias: str | None, kind: Kind) -> ops.Projection:
    part = ops.Part(0, 1, transposed=True) if kind.transposed else None
    return ops.Projection(tensor, target, offset, bias, part=part)


def _weight(name: str, index: int) -> str:
    return f"{name.format(i=index)}.weight"


def _bias(name: str, index: int) -> str:
    return f"{name.format(i=index)}.bias"


def _read(norm: str, index: int, shape: Shape, kind: Kind) -> ops.Operation:
    return norm_of("x", norm.format(i=index), shape, kind) if kind.norms_before else ops.Quantize("x")


def _add(
    matrix: str, norm: str | None, index: int, shape: Shape, kind: Kind, has_bias: bool
) -> tuple[ops.Operation, ...]:
    """Add what a matrix makes of the activations to the rows, normed if there is a norm."""
    bias = _bias(matrix, index) if has_bias else None
    if norm is None:
        return (ops.Linear((_matrix(_weight(matrix, index), "x", 0, bias, kind),), accumulate=True),)
    return (
        ops.Linear((_matrix(_weight(matrix, index), "part", 0, bias, kind),)),
        *_add_normed(norm, index, shape),
    )


def _add_normed(norm: str, index: int, shape: Shape) -> tuple[ops.Operation, ...]:
    return (
        ops.Quantize("part", _weight(norm, index), shape.epsilon, keep=True),
        ops.Copy("part", "x", accumulate=True),
    )
