"""What most embedding models are: attention, add, norm, feed-forward, add, norm (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class Names:
    """Tensor names without `.weight` and `.bias`; those of a layer contain `{i}`."""

    words: str
    embedding_norm: str
    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str
    positions: str | None = None
    segments: str | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of an encoder; `context` is in tokens, `skip` rows of the position table are unused."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    context: int
    epsilon: float
    skip: int = 0
    segments: int = 1


# Until the last layer but one gives them up, the first token carries a few huge values (massive activations,
# Sun et al. 2024), beside which bytes hold little of its others: in that layer, what was lost would show.
_RELEASE = 2  # counted from the end


def describe_post_norm(
    checkpoint: Checkpoint,
    names: Names,
    sizes: Sizes,
    *,
    bias: ops.BucketBias | None = None,
    attention: Callable[[int], ops.DisentangledAttention] | None = None,
    pooling: str = "mean",
    head: ops.Head | None = None,
) -> ops.EncoderPlan:
    """`attention` is that of a layer from "qkv" to "attention", where it is not the usual one.

    Raises: CheckpointError when the sizes do not fit the engine or the tensors.
    """
    vocab_size = _check(checkpoint, names, sizes)

    def norm(name: str) -> ops.Quantize:
        return ops.Quantize("x", f"{name}.weight", sizes.epsilon, True, f"{name}.bias", keep=True)

    def linear(name: str, target: str, offset: int = 0, fine: bool = False) -> ops.Projection:
        return ops.Projection(f"{name}.weight", target, offset, f"{name}.bias", fine=fine)

    hidden, heads = sizes.hidden, sizes.heads
    usual = ops.EncoderAttention("qkv", "attention", heads, heads, (hidden // heads) ** -0.5, bias=bias)

    def layer(i: int) -> tuple[ops.Operation, ...]:
        return (
            ops.Linear(
                (
                    linear(names.query.format(i=i), "qkv"),
                    linear(names.key.format(i=i), "qkv", hidden),
                    linear(names.value.format(i=i), "qkv", 2 * hidden, fine=True),
                )
            ),
            usual if attention is None else attention(i),
            ops.Quantize("attention"),
            ops.Linear((linear(names.output.format(i=i), "x"),), accumulate=True),
            norm(names.attention_norm.format(i=i)),
            ops.Linear((linear(names.up.format(i=i), "up", fine=i == sizes.layers - _RELEASE),)),
            ops.Gelu("up"),
            ops.Linear((linear(names.down.format(i=i), "x"),), accumulate=True),
            norm(names.output_norm.format(i=i)),
        )

    return ops.EncoderPlan(
        hidden=sizes.hidden,
        context=sizes.context,
        vocab_size=vocab_size,
        buffers={"x": sizes.hidden, "qkv": 3 * sizes.hidden, "attention": sizes.hidden, "up": sizes.ffn},
        operations=(
            *_embedding(names, sizes),
            norm(names.embedding_norm),
            *(operation for i in range(sizes.layers) for operation in layer(i)),
        ),
        pooling=pooling,
        segments=sizes.segments if names.segments is not None else 1,
        head=head,
    )


def _embedding(names: Names, sizes: Sizes) -> tuple[ops.Operation, ...]:
    words = ops.Embed(f"{names.words}.weight", "x", fine=True)
    if names.positions is None:
        return (words,)
    segments = None if names.segments is None else f"{names.segments}.weight"
    table = ops.AddPositions(f"{names.positions}.weight", "x", sizes.context, segments, sizes.skip)
    return (words, table)


def _check(checkpoint: Checkpoint, names: Names, sizes: Sizes) -> int:
    """Rows of the word embedding."""
    words = checkpoint.tensor(f"{names.words}.weight")
    if sizes.hidden % sizes.heads or (sizes.hidden // sizes.heads) % 8:
        raise CheckpointError(
            f"{sizes.heads} heads over {sizes.hidden} dimensions in '{checkpoint.path}' is a shape "
            "the engine does not run."
        )
    return words.shape[0]
