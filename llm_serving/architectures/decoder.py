"""The shape most decoders share: norm, attention, norm, gated feed-forward (Touvron et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llm_serving.architectures.decoder_layer import Kind as Kind
from llm_serving.architectures.decoder_layer import Scales as Scales
from llm_serving.architectures.decoder_layer import layer, norm_of
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, is_tied, read_names, read_shape
from llm_serving.architectures.experts import expert_buffers, expert_slots
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


def describe_decoder(
    checkpoint: Checkpoint,
    kind: Kind,
    defaults: Defaults = Defaults(),  # noqa: B008 (frozen)
) -> ops.ModelPlan:
    """Plan of a decoder with grouped queries, rotary positions and a gated feed-forward part.

    Raises: CheckpointError when a size is missing, out of range, or not one that the engine runs.
    """
    return plan_of(checkpoint, read_names(checkpoint), read_shape(checkpoint, defaults), kind)


def plan_of(
    checkpoint: Checkpoint,
    names: Names,
    shape: Shape,
    kind: Kind,
    own_layer: Callable[[int], tuple[ops.Operation, ...]] | None = None,
) -> ops.ModelPlan:
    """A decoder of these names and sizes, with its own layers or such as `kind` says.

    Raises: CheckpointError when it has no embedding.
    """
    scales = kind.scales
    # Rows are kept divided by `parts`, so what is added stays as it is. Norms see it in their epsilon only.
    shape = replace(shape, epsilon=shape.epsilon / scales.parts**2)
    layer_of = own_layer or (lambda i: layer(checkpoint, i, names, shape, kind))
    words = f"{names.words}.weight"
    vocab = checkpoint.tensor(words).shape[0]
    return ops.ModelPlan(
        vocab_size=vocab,
        max_context=shape.context,
        query_heads=shape.heads,
        kv=(ops.KvShape(shape.kv_heads, shape.head_dim),) * shape.layers,
        rope=shape.rope,
        buffers={
            "x": shape.hidden,
            "qkv": shape.queries + 2 * shape.keys,
            "attention": shape.queries,
            **_buffers(shape, kind),
            "last": shape.hidden,
            "logits": vocab,
        },
        operations=(
            ops.Embed(words, "x", scale=scales.words / scales.parts),
            *_behind_words(names, shape, kind),
            *(op for i in range(shape.layers) for op in layer_of(i)),
            ops.SelectRows("x", "last"),
            norm_of("last", names.norm, shape, kind, gain=scales.logits),
            ops.Linear(
                (
                    ops.Projection(
                        words if is_tied(checkpoint, names) else f"{names.head}.weight",
                        "logits",
                        bias=f"{names.head}.bias" if kind.head_bias else None,
                    ),
                )
            ),
            *([ops.SoftCap("logits", kind.logit_cap)] if kind.logit_cap else []),
        ),
        norm_offset=kind.norm_offset,
        slots={} if kind.experts is None else expert_slots(shape.hidden, kind.experts[1], kind.experts[0]),
    )


def _behind_words(names: Names, shape: Shape, kind: Kind) -> tuple[ops.Operation, ...]:
    """Learned positions, and a norm of embeddings."""
    skip, norm = kind.positions, norm_of("x", names.words_norm, shape, kind)
    return (
        *(
            [ops.AddPositions(f"{names.positions}.weight", "x", shape.context, skip=skip)]
            if skip is not None
            else []
        ),
        *([replace(norm, keep=True)] if kind.words_norm else []),
    )


def _buffers(shape: Shape, kind: Kind) -> dict[str, int]:
    """Those of feed-forward parts, and for what is normed before it is added."""
    is_averaged = kind.experts is not None and kind.experts[1].averaged
    part = {"part": shape.hidden} if kind.norms_behind or is_averaged else {}
    if kind.output_gate:
        part["gates"] = shape.queries
    gates = {"gate_up": (2 if kind.gated else 1) * shape.ffn}
    if kind.experts is None:
        return {**gates, **part}
    own = {"normed": shape.hidden, **expert_buffers(kind.experts[1], shape.hidden), **part}
    return {**gates, **own} if kind.dense else own
