"""A mixture of experts as a layer's feed-forward part, each with a gelu (nomic-embed-text-v2-moe)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """Whole tensor names, with `{i}` for the layer; up and down hold all experts, `bias` is added once."""

    router: str
    up: str
    down: str
    bias: str
    transposed: bool = False  # down is stored as inputs x outputs


@dataclass(frozen=True, slots=True)
class ExpertSizes:
    """`used` of `count` experts work on a token, in every `every`-th layer."""

    count: int
    used: int
    every: int


def expert_buffers(hidden: int, sizes: ExpertSizes | None) -> dict[str, int]:
    """What `mixture` needs beside "x" and "up"."""
    return {} if sizes is None else {"router": sizes.count, "routed": hidden, "expert": hidden}


def mixture(
    checkpoint: Checkpoint, names: ExpertNames, sizes: ExpertSizes, i: int
) -> tuple[ops.Operation, ...]:
    """x += the weighted sum of the experts' outputs; the activations must be those of x.

    Raises: CheckpointError if more experts are to be used than there are.
    """
    if sizes.used > sizes.count:
        raise CheckpointError(f"'{checkpoint.path}' uses {sizes.used} of {sizes.count} experts.")
    router, up, down = (name.format(i=i) for name in (names.router, names.up, names.down))
    bias = names.bias.format(i=i)

    def expert(index: int) -> ops.Expert:
        parts = (ops.Part(index, sizes.count), ops.Part(index, sizes.count, names.transposed))
        return ops.Expert(
            index,
            (
                ops.Gather("routed"),
                ops.Linear((ops.Projection(up, "up", part=parts[0]),)),
                ops.Gelu("up"),
                ops.Linear((ops.Projection(down, "expert", part=parts[1]),)),
                ops.Scatter("expert", "x"),
            ),
        )

    return (
        ops.Linear((ops.Projection(router, "router", fine=True),)),
        ops.Route("router", sizes.used),
        ops.Copy("x", "routed"),
        *((ops.Copy("routed", "x", bias),) if bias in checkpoint.tensors else ()),
        *(expert(index) for index in range(sizes.count)),
    )
