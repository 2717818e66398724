"""A mixture of experts as a layer's feed-forward part (Shazeer et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """Whole tensor names, with `{i}` for the layer.

    Those of an expert's matrices contain `{e}` for it, or the tensors hold all experts one after the other.
    With a `gate` an expert is SwiGLU, and where `up` begins with the gate's rows; else it is one gelu.
    `bias` is added once, if there is such a tensor.
    """

    router: str
    up: str
    down: str
    gate: str | None = None
    bias: str | None = None
    transposed: bool = False  # down is stored as inputs x outputs
    fused: bool = False  # `up` holds the gate, too

    @property
    def is_gated(self) -> bool:
        return self.fused or self.gate is not None


@dataclass(frozen=True, slots=True)
class ExpertSizes:
    """`used` of `count` experts work on a token, each as wide as `ffn`, in every `every`-th layer."""

    count: int
    used: int
    ffn: int
    every: int = 1
    normalized: bool = False  # the weights of those used have a sum of one


def expert_buffers(sizes: ExpertSizes | None) -> dict[str, int]:
    """What `mixture` needs with a row for each token, beside its source and "x"."""
    return {} if sizes is None else {"router": sizes.count}


def expert_slots(hidden: int, sizes: ExpertSizes | None, names: ExpertNames) -> dict[str, int]:
    """What it needs with a row for each token and expert."""
    if sizes is None:
        return {}
    return {"expert_up": sizes.ffn * (2 if names.is_gated else 1), "expert_out": hidden}


def mixture(
    checkpoint: Checkpoint, names: ExpertNames, sizes: ExpertSizes, i: int, source: str = "x"
) -> tuple[ops.Operation, ...]:
    """x += the weighted sum of what the experts make of `source`, whose rows the activations must be.

    Raises: CheckpointError if more experts are to be used than there are, or the router knows others.
    """
    if sizes.used > sizes.count:
        raise CheckpointError(f"'{checkpoint.path}' uses {sizes.used} of {sizes.count} experts.")
    router = checkpoint.tensor(names.router.format(i=i))
    if router.shape[0] != sizes.count:
        raise CheckpointError(
            f"Tensor '{router.name}' has {router.shape[0]} rows where there are {sizes.count} experts."
        )
    bias = names.bias and names.bias.format(i=i)

    def projection(
        name: str, e: int, target: str, offset: int = 0, transposed: bool = False
    ) -> ops.Projection:
        part = None if "{e}" in name else ops.Part(e, sizes.count, transposed)
        return ops.Projection(name.format(i=i, e=e), target, offset, part=part)

    def up(e: int) -> tuple[ops.Projection, ...]:
        if names.gate is None:
            return (projection(names.up, e, "expert_up"),)
        return projection(names.gate, e, "expert_up"), projection(names.up, e, "expert_up", sizes.ffn)

    return (
        ops.Linear((ops.Projection(router.name, "router", fine=True),)),
        ops.Route("router", sizes.used, sizes.normalized),
        ops.Gather(source),
        ops.ExpertLinear(tuple(up(e) for e in range(sizes.count))),
        ops.Gated("expert_up", sizes.ffn) if names.is_gated else ops.Gelu("expert_up"),
        ops.ExpertLinear(
            tuple(
                (projection(names.down, e, "expert_out", transposed=names.transposed),)
                for e in range(sizes.count)
            )
        ),
        ops.Combine("expert_out", "x", bias if bias in checkpoint.tensors else None),
    )
