"""The shape most decoders share: norm, attention, norm, gated feed-forward (Touvron et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, is_tied, read_names, read_shape
from llm_serving.architectures.experts import (
    ExpertNames,
    ExpertSizes,
    expert_buffers,
    expert_slots,
    mixture,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
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
    head_norm: bool = False  # heads of queries and keys are normed before they rotate
    whole_norm: bool = False  # all heads of queries are normed at once, and all of keys
    interleaved: bool = False  # query and key rows stand as rotary pairs in the file
    experts: tuple[ExpertNames, ExpertSizes] | None = None  # in place of every feed-forward part
    is_fused: bool = False  # queries, keys and values are one matrix; gates and what they open another
    still: frozenset[int] = frozenset()  # layers that do not rotate
    scales: Scales = Scales()


def describe_decoder(
    checkpoint: Checkpoint,
    kind: Kind,
    defaults: Defaults = Defaults(),  # noqa: B008 (frozen)
    window: int = 0,
) -> ops.ModelPlan:
    """Plan of a pre-norm decoder with grouped queries, rotary positions and SwiGLU.

    With `window` a token sees so many, itself counted in.
    Raises: CheckpointError when a size is missing, out of range, or not one that the engine runs.
    """
    names, shape = read_names(checkpoint), read_shape(checkpoint, defaults)
    if kind.interleaved and shape.rope.rotated != shape.head_dim:
        raise CheckpointError(
            f"Rotating {shape.rope.rotated} of {shape.head_dim} interleaved dimensions is not supported."
        )
    scales = kind.scales
    # Rows are kept divided by `parts`, so what is added stays as it is. Norms see it in their epsilon only.
    shape = replace(shape, epsilon=shape.epsilon / scales.parts**2)
    layers = [_layer(checkpoint, i, names, shape, kind, window) for i in range(shape.layers)]
    buffers, slots = {}, {}
    if kind.experts is not None:
        expert_names, sizes = kind.experts
        buffers = {"normed": shape.hidden, **expert_buffers(sizes)}
        slots = expert_slots(shape.hidden, sizes, expert_names)
    return plan_of(
        checkpoint,
        names,
        shape,
        layers,
        word_scale=scales.words / scales.parts,
        more_buffers=buffers,
        slots=slots,
        logit_scale=scales.logits,
    )


def plan_of(
    checkpoint: Checkpoint,
    names: Names,
    shape: Shape,
    layers: Iterable[tuple[ops.Operation, ...]],
    *,
    word_scale: float = 1.0,
    more_buffers: dict[str, int] | None = None,
    norm_offset: float = 0.0,
    slots: dict[str, int] | None = None,
    logit_scale: float = 1.0,
) -> ops.ModelPlan:
    """A decoder of these layers: words in front, the last norm and the head behind."""
    words = f"{names.words}.weight"
    vocab = checkpoint.tensor(words).shape[0]
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
            **({} if slots else {"gate_up": 2 * shape.ffn}),
            **(more_buffers or {}),
            "last": shape.hidden,
            "logits": vocab,
        },
        operations=(
            ops.Embed(words, "x", scale=word_scale),
            *(operation for layer in layers for operation in layer),
            ops.SelectRows("x", "last"),
            ops.Quantize("last", f"{names.norm}.weight", shape.epsilon, gain=logit_scale),
            ops.Linear(
                (ops.Projection(words if is_tied(checkpoint, names) else f"{names.head}.weight", "logits"),)
            ),
        ),
        norm_offset=norm_offset,
        slots=slots or {},
    )


def add_normed(norm: str, epsilon: float) -> tuple[ops.Operation, ...]:
    """Add the buffer "part", normed, to the rows."""
    return ops.Quantize("part", norm, epsilon, keep=True), ops.Copy("part", "x", accumulate=True)


def _layer(
    checkpoint: Checkpoint, index: int, names: Names, shape: Shape, kind: Kind, window: int
) -> tuple[ops.Operation, ...]:
    pairs = shape.head_dim if kind.interleaved else 0

    def of(name: str, part: str = "weight") -> str:
        return f"{name.format(i=index)}.{part}"

    def projection(name: str, offset: int, pairs: int = 0) -> ops.Projection:
        bias = of(name, "bias") if kind.qkv_bias else None
        return ops.Projection(of(name), "qkv", offset, bias, pairs)

    norms: tuple[ops.Operation, ...] = ()
    if kind.head_norm or kind.whole_norm:
        heads, kv_heads = (1, 1) if kind.whole_norm else (shape.heads, shape.kv_heads)
        norms = (
            ops.HeadNorm("qkv", 0, shape.queries, heads, of(names.query_norm), shape.epsilon),
            ops.HeadNorm("qkv", shape.queries, shape.keys, kv_heads, of(names.key_norm), shape.epsilon),
        )
    attention_inputs: tuple[ops.Projection, ...] = (
        projection(names.query, 0, pairs),
        projection(names.key, shape.queries, pairs),
        projection(names.value, shape.queries + shape.keys),
    )
    gates: tuple[ops.Projection, ...] = (
        ops.Projection(of(names.gate), "gate_up"),
        ops.Projection(of(names.up), "gate_up", shape.ffn),
    )
    if kind.is_fused:
        attention_inputs = (projection(names.qkv, 0),)
        gates = (ops.Projection(of(names.gate_up), "gate_up"),)
    feed_forward: tuple[ops.Operation, ...] = (
        ops.Quantize("x", of(names.ffn_norm), shape.epsilon),
        ops.Linear(gates),
        ops.Gated("gate_up", shape.ffn),
        ops.Linear((ops.Projection(of(names.down), "x"),), accumulate=True),
    )
    if kind.experts is not None:  # which read the normed rows one by one
        feed_forward = (
            ops.Copy("x", "normed"),
            ops.Quantize("normed", of(names.ffn_norm), shape.epsilon, keep=True),
            *mixture(checkpoint, *kind.experts, index, "normed"),
        )
    return (
        ops.Quantize("x", of(names.input_norm), shape.epsilon),
        ops.Linear(attention_inputs),
        *norms,
        ops.RopeStore("qkv", index, shape.rope.still if index in kind.still else None),
        ops.Attention("qkv", "attention", index, kind.scales.scores or shape.head_dim**-0.5, window),
        ops.Quantize("attention"),
        ops.Linear((ops.Projection(of(names.output), "x"),), accumulate=True),
        *feed_forward,
    )
