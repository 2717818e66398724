"""Multi-head latent attention: all heads share one small key, which is the value, too.

DeepSeek-AI 2024 (arXiv 2405.04434).

Of a token only `latent` numbers are kept, and `rotated` ones with its position. What heads would make keys
and values of the latent with is multiplied with their queries, and with what they attended to, in place of
that. So attention is one of many query heads over a single key [rotated | latent], and it is its own value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_serving.architectures.decoder_layer import Kind, feed_forward
from llm_serving.architectures.decoder_shape import Names, Shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class LatentNames:
    """Whole tensor names, with `{i}`. Without `query_down`, `query_up` reads the rows themselves.

    What makes keys and values of the latent is one tensor, of each head's keys and then its values, or two,
    [heads, latent, plain] and [heads, values, latent].
    """

    query_up: str
    latent: str  # and rotated rows behind
    latent_norm: str
    query_down: str | None = None
    query_norm: str | None = None
    expand: str | None = None
    expand_keys: str = ""
    expand_values: str = ""


@dataclass(frozen=True, slots=True)
class LatentSizes:
    """Of a head: `plain` dimensions of queries that have no position, `rotated` ones, and `values`."""

    heads: int
    latent: int
    plain: int
    rotated: int
    values: int
    query_latent: int = 0
    epsilon: float = 1e-6  # of both norms of latents
    scale: float = 1.0  # of scores
    in_pairs: bool = True  # rotated rows stand as rotary pairs

    @property
    def key(self) -> int:
        return self.rotated + self.latent

    @property
    def query(self) -> int:
        return self.plain + self.rotated


def check_tensors(checkpoint: Checkpoint, names: LatentNames, sizes: LatentSizes, output: str) -> None:
    """Heads are planned one by one, so that there are as many is to be seen first.

    Raises: CheckpointError for tensors of the first layer that are missing or of other sizes.
    """
    wanted: dict[str, tuple[int, ...]] = {
        names.query_up: (sizes.heads * sizes.query,),
        names.latent: (sizes.latent + sizes.rotated,),
    }
    if names.expand:
        wanted[names.expand] = (sizes.heads * (sizes.plain + sizes.values), sizes.latent)
    else:
        wanted[names.expand_keys] = (sizes.heads, sizes.latent, sizes.plain)
        wanted[names.expand_values] = (sizes.heads, sizes.values, sizes.latent)
    for name, sized in wanted.items():
        tensor = checkpoint.tensor(name.format(i=0))
        if tensor.shape[: len(sized)] != sized:
            raise CheckpointError(
                f"Tensor '{tensor.name}' of '{checkpoint.path}' has shape {tensor.shape}. By its header "
                f"it begins with {sized}: {sizes.heads} heads of {sizes.plain} + {sizes.rotated} dimensions, "
                f"{sizes.values} of values, a latent of {sizes.latent}."
            )
    columns = checkpoint.tensor(f"{output.format(i=0)}.weight").shape[-1]
    if columns != sizes.heads * sizes.values:
        raise CheckpointError(
            f"Tensor '{output.format(i=0)}.weight' of '{checkpoint.path}' has {columns} columns where "
            f"{sizes.heads} heads have {sizes.heads * sizes.values} values."
        )


def with_buffers(plan: ops.ModelPlan, sizes: LatentSizes) -> ops.ModelPlan:
    """The plan with what `latent_layer` needs beside "attention"."""
    own = {
        "qkv": (sizes.heads + 1) * sizes.key,  # the value is the key
        "plain": sizes.heads * sizes.plain,
        "attended": sizes.heads * sizes.values,
        **({"query_latent": sizes.query_latent} if sizes.query_latent else {}),
    }
    first, *others = plan.buffers.items()
    return replace(plan, buffers=dict([first]) | own | {name: w for name, w in others if name not in own})


def latent_layer(
    checkpoint: Checkpoint,
    i: int,
    own: LatentNames,
    sizes: LatentSizes,
    names: Names,
    shape: Shape,
    kind: Kind,
) -> tuple[ops.Operation, ...]:
    """Operations on the buffers of `with_buffers` and "attention", and then of a feed-forward part."""
    key_at, norm = sizes.heads * sizes.key, own.latent_norm.format(i=i)
    return (
        ops.Quantize("x", f"{names.input_norm.format(i=i)}.weight", shape.epsilon),
        *_inputs(own, sizes, i),
        ops.HeadNorm("qkv", key_at + sizes.rotated, sizes.latent, 1, norm, sizes.epsilon),
        ops.Quantize("plain"),
        ops.Linear(_absorbed_keys(own, sizes, i), apart=True),
        ops.RopeStore("qkv", i, keys_are_values=True),
        ops.Attention("qkv", "attention", i, sizes.scale),
        ops.Quantize("attention"),
        ops.Linear(_values(own, sizes, i), apart=True),
        ops.Quantize("attended"),
        ops.Linear((ops.Projection(f"{names.output.format(i=i)}.weight", "x"),), accumulate=True),
        *feed_forward(checkpoint, i, names, shape, kind),
    )


def _inputs(own: LatentNames, sizes: LatentSizes, i: int) -> tuple[ops.Operation, ...]:
    """Queries and the key, of the normed rows."""
    queries, key = _queries(own, sizes, i), _key(own, sizes, i)
    if own.query_down is None:
        return (ops.Linear((*queries, *key), apart=True),)
    down = ops.Projection(own.query_down.format(i=i), "query_latent")
    norm = own.query_norm and own.query_norm.format(i=i)
    return (
        ops.Linear((down, *key), apart=True),
        ops.Quantize("query_latent", norm, sizes.epsilon),
        ops.Linear(queries, apart=True),
    )


def _queries(own: LatentNames, sizes: LatentSizes, i: int) -> tuple[ops.Projection, ...]:
    """Plain dimensions of all heads together, rotated ones at the beginning of each head."""
    tensor, period = own.query_up.format(i=i), sizes.query
    pairs = sizes.rotated if sizes.in_pairs else 0
    rotated = tuple(
        ops.Projection(
            tensor,
            "qkv",
            h * sizes.key,
            interleaved=pairs,
            part=ops.Stripe(h * period + sizes.plain, sizes.rotated, sizes.heads * period),
        )
        for h in range(sizes.heads)
    )
    return (ops.Projection(tensor, "plain", part=ops.Stripe(0, sizes.plain, period)), *rotated)


def _key(own: LatentNames, sizes: LatentSizes, i: int) -> tuple[ops.Projection, ...]:
    tensor, at = own.latent.format(i=i), sizes.heads * sizes.key
    pairs = sizes.rotated if sizes.in_pairs else 0
    rotated, latent = (
        ops.Stripe(sizes.latent, sizes.rotated, sizes.key),
        ops.Stripe(0, sizes.latent, sizes.key),
    )
    return (
        ops.Projection(tensor, "qkv", at, interleaved=pairs, part=rotated),
        ops.Projection(tensor, "qkv", at + sizes.rotated, part=latent),
    )


def _absorbed_keys(own: LatentNames, sizes: LatentSizes, i: int) -> tuple[ops.Projection, ...]:
    """Of each head, plain dimensions of a query to those of the latent."""
    period = sizes.plain + sizes.values

    def projection(h: int) -> ops.Projection:
        part: ops.Part | ops.Stripe = ops.Part(h, sizes.heads)
        if own.expand:
            part = ops.Stripe(h * period, sizes.plain, sizes.heads * period, transposed=True)
        tensor = (own.expand or own.expand_keys).format(i=i)
        return ops.Projection(tensor, "qkv", h * sizes.key + sizes.rotated, part=part, first=h * sizes.plain)

    return tuple(projection(h) for h in range(sizes.heads))


def _values(own: LatentNames, sizes: LatentSizes, i: int) -> tuple[ops.Projection, ...]:
    """Of each head, the latent that it attended to becomes its values."""
    period = sizes.plain + sizes.values

    def projection(h: int) -> ops.Projection:
        part: ops.Part | ops.Stripe = ops.Part(h, sizes.heads)
        if own.expand:
            part = ops.Stripe(h * period + sizes.plain, sizes.values, sizes.heads * period)
        tensor = (own.expand or own.expand_values).format(i=i)
        first = h * sizes.key + sizes.rotated
        return ops.Projection(tensor, "attended", h * sizes.values, part=part, first=first)

    return tuple(projection(h) for h in range(sizes.heads))
