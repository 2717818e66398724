"""A mixture of experts as a layer's feed-forward part (Shazeer et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class ExpertBiases:
    """Tensor names as in `ExpertNames`; those of experts are [experts, outputs]."""

    router: str | None = None
    up: str | None = None
    down: str | None = None
    gate: str | None = None


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """Whole tensor names, with `{i}` for the layer.

    Those of an expert's matrices contain `{e}` for it, or the tensors hold all experts one after the other.
    With a `gate` an expert is SwiGLU, and where `up` begins with the gate's rows; else it is one gelu.
    `bias` is added once, if there is such a tensor; `biases` are of all matrices.
    """

    router: str
    up: str
    down: str
    gate: str | None = None
    bias: str | None = None
    transposed: bool = False  # down is stored as inputs x outputs,
    up_transposed: bool = False  # and up
    fused: bool = False  # `up` holds the gate, too
    in_turn: bool = False  # then its rows and the gate's alternate, the gate's first
    biases: ExpertBiases = ExpertBiases()

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
    limit: float = 0.0  # of gates, as in `Gated`,
    slope: float = 1.0


@dataclass(frozen=True, slots=True)
class SharedExpert:
    """One that works on all tokens, by how far a gate of its own opens; whole tensor names with `{i}`."""

    gate: str
    up: str
    down: str
    opening: str  # [1, hidden] or [hidden]
    ffn: int


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
    biases = names.biases

    def projection(
        name: str,
        e: int,
        target: str,
        bias: str | None,
        *,
        offset: int = 0,
        transposed: bool = False,
        interleaved: int = 0,
    ) -> ops.Projection:
        part = None if "{e}" in name else ops.Part(e, sizes.count, transposed)
        own = bias and bias.format(i=i, e=e)
        return ops.Projection(name.format(i=i, e=e), target, offset, own, interleaved, part=part)

    def up(e: int) -> tuple[ops.Projection, ...]:
        gates = () if names.gate is None else (projection(names.gate, e, "expert_up", biases.gate),)
        opened = projection(
            names.up,
            e,
            "expert_up",
            biases.up,
            offset=sizes.ffn if gates else 0,
            transposed=names.up_transposed,
            interleaved=2 * sizes.ffn if names.in_turn else 0,
        )
        return *gates, opened

    def down(e: int) -> ops.Projection:
        return projection(names.down, e, "expert_out", biases.down, transposed=names.transposed)

    router_bias = biases.router and biases.router.format(i=i)
    experts = range(sizes.count)
    return (
        ops.Linear((ops.Projection(router.name, "router", bias=router_bias, fine=True),)),
        ops.Route("router", sizes.used, sizes.normalized),
        ops.Gather(source),
        ops.ExpertLinear(tuple(up(e) for e in experts)),
        ops.Gated("expert_up", sizes.ffn, limit=sizes.limit, slope=sizes.slope)
        if names.is_gated
        else ops.Gelu("expert_up"),
        ops.ExpertLinear(tuple((down(e),) for e in experts)),
        ops.Combine("expert_out", "x", bias if bias in checkpoint.tensors else None),
    )


def shared_buffers(hidden: int, shared: SharedExpert | None) -> dict[str, int]:
    """What `shared_part` needs beside its source and "x"."""
    return {} if shared is None else {"gate_up": 2 * shared.ffn, "shared": hidden, "opening": 1}


def shared_part(shared: SharedExpert, i: int, source: str) -> tuple[ops.Operation, ...]:
    """x += sigmoid(opening) * what the expert makes of `source`."""
    opening = ops.Projection(shared.opening.format(i=i), "opening", fine=True, part=ops.Part(0, 1))
    return (
        ops.Quantize(source),
        ops.Linear(
            (
                ops.Projection(shared.gate.format(i=i), "gate_up"),
                ops.Projection(shared.up.format(i=i), "gate_up", shared.ffn),
                opening,
            )
        ),
        ops.Gated("gate_up", shared.ffn),
        ops.Linear((ops.Projection(shared.down.format(i=i), "shared"),)),
        ops.Copy("shared", "x", accumulate=True, gate="opening"),
    )
