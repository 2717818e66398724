"""Gemma 3n: rows in several streams, a learned residual, sparse gates (Google 2025), and what Gemma 4's small
models have, too: inputs for each layer, keys that layers share. What sees and hears is left alone.
"""

from __future__ import annotations

from llm_serving.architectures.gemma3n_layer import layer, stream_buffers
from llm_serving.architectures.gemma3n_names import AltUpNames, read_altup_names
from llm_serving.architectures.gemma3n_shape import Gemma3nShape, read_shape
from llm_serving.architectures.gemma4 import head, layer_buffers, layer_inputs, text_part
from llm_serving.architectures.gemma4_names import Names, read_names
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops

_TEXT_KINDS = ("gemma3n_text",)
_UNKNOWN = (
    0  # whose input of the layers tokens get that have none, as those that stand for pictures and sound
)


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """The text model.

    Raises: CheckpointError for a size that is missing, or anything that the engine does not run.
    """
    checkpoint = text_part(checkpoint, _TEXT_KINDS)
    names, altup = read_names(checkpoint), read_altup_names(checkpoint)
    shape = read_shape(checkpoint, altup)
    usual = shape.usual
    vocab = checkpoint.tensor(names.words).shape[0]
    count, keeping = len(usual.layers), len(usual.layers) - usual.shared
    layers = [layer(checkpoint, i, names, altup, shape) for i in range(count)]
    streams, last = stream_buffers("x", shape.streams), stream_buffers("last", shape.streams)
    return ops.ModelPlan(
        vocab_size=vocab,
        max_context=usual.context,
        query_heads=usual.heads,
        kv=tuple(ops.KvShape(own.kv_heads, own.head_dim) for own in usual.layers[:keeping]),
        rope=usual.rope,
        buffers={**_buffers(shape), "logits": vocab},
        operations=(
            ops.Embed(names.words, "x", scale=usual.hidden**0.5),
            *_begin(shape, names, altup),
            *(op for own in layers[:keeping] for op in own),
            # Who keeps no keys and values works on the tokens that are asked for only.
            *(ops.SelectRows(*pair) for pair in zip(streams, last, strict=True)),
            *([ops.SelectRows("inputs", "last_inputs")] if usual.shared else []),
            *(op for own in layers[keeping:] for op in own),
            *_end(shape, altup),
            ops.Quantize("row", names.norm, usual.epsilon),
            ops.Linear((ops.Projection(head(checkpoint, names), "logits"),)),
            *([ops.SoftCap("logits", usual.logit_cap)] if usual.logit_cap else []),
        ),
    )


def _begin(shape: Gemma3nShape, names: Names, altup: AltUpNames) -> tuple[ops.Operation, ...]:
    """All streams from the first, as large as it is. They read what the layers' inputs read: the row."""
    first, *others = stream_buffers("x", shape.streams)
    matrices = (altup.stream(altup.begin, j, shape.streams, own) for j, own in enumerate(others, 1))
    return (
        *layer_inputs(shape.usual, names, _UNKNOWN),
        ops.Linear(tuple(matrices)),
        *(ops.MatchMagnitude(own, first) for own in others),
    )


def _end(shape: Gemma3nShape, altup: AltUpNames) -> tuple[ops.Operation, ...]:
    """row = the mean of all streams, as large as the first."""
    first, *others = stream_buffers("last", shape.streams)
    operations: list[ops.Operation] = [ops.Copy(first, "row")]
    for j, own in enumerate(others, 1):
        operations += [
            ops.Quantize(own),
            ops.Linear((altup.stream(altup.end, j, shape.streams, "part"),)),
            ops.MatchMagnitude("part", first),
            ops.Copy("part", "row", accumulate=True, scale=1 / shape.streams if j == len(others) else None),
        ]
    return tuple(operations)


def _buffers(shape: Gemma3nShape) -> dict[str, int]:
    hidden, (_, *others) = shape.usual.hidden, stream_buffers("x", shape.streams)
    streams = [*others, *stream_buffers("last", shape.streams)]
    return {
        **layer_buffers(shape.usual),
        **dict.fromkeys((*streams, "row"), hidden),
        "router": shape.streams,
        "low": shape.laurel,
    }
