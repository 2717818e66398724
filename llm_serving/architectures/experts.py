"""A mixture of experts as a layer's feed-forward part (Shazeer et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

MOST_GROUPS = 64  # as in bindings_experts.cpp
SQUARED_RELU = (1.0, 0.0, 0.0)  # as in `Xielu`


@dataclass(frozen=True, slots=True)
class ExpertBiases:
    """Tensor names as in `ExpertNames`; those of experts are [experts, outputs]."""

    router: str | None = None
    up: str | None = None
    down: str | None = None
    gate: str | None = None


@dataclass(frozen=True, slots=True)
class SharedNames:
    """Whole tensor names, with `{i}`, of the expert that works on all tokens: SwiGLU, or without gates."""

    up: str  # begins with the gate's rows if there is no
    down: str
    gate: str | None = None
    door: str | None = None  # [1, hidden]: what comes of the expert is multiplied with sigmoid(door @ row)


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
    scales: str | None = None  # as in `Route`
    correction: str | None = None  # as in `Route`
    shared: SharedNames | None = None

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
    activation: str = "silu"  # of gates, as in `Gated`; or relu2, the square of relu, then neither these
    # experts nor the one for all tokens have gates
    scores: str = "softmax"  # as in `Route`,
    scale: float = 1.0
    groups: ops.ExpertGroups | None = None
    margin: float = 0.0
    shared: int = 0  # how wide the expert is that works on all tokens
    has_door: bool = False  # to that expert
    averaged: bool = False  # half of what it and the others give is added
    weighted_inputs: bool = False  # what experts read is multiplied with their weights, not what they make


def fit_groups(groups: ops.ExpertGroups, count: int, used: int) -> bool:
    """Whether `used` of `count` experts can be chosen from such groups."""
    size = count // groups.count
    return (
        count == size * groups.count
        and groups.used <= groups.count <= MOST_GROUPS
        and groups.best <= size
        and used <= groups.used * size
    )


def expert_buffers(sizes: ExpertSizes | None, hidden: int = 0) -> dict[str, int]:
    """What `mixture` needs with a row for each token, beside its source and "x"."""
    if sizes is None:
        return {}
    shared = {"shared_up": sizes.shared * (1 if sizes.activation == "relu2" else 2)} if sizes.shared else {}
    door = {"door": 1, "shared_out": hidden} if sizes.has_door else {}
    return {"router": sizes.count, **shared, **door}


def expert_slots(hidden: int, sizes: ExpertSizes | None, names: ExpertNames) -> dict[str, int]:
    """What it needs with a row for each token and expert."""
    if sizes is None:
        return {}
    return {"expert_up": sizes.ffn * (2 if names.is_gated else 1), "expert_out": hidden}


def mixture(
    checkpoint: Checkpoint,
    names: ExpertNames,
    sizes: ExpertSizes,
    i: int,
    source: str = "x",
    target: str | None = None,
    *,
    routed: bool = False,
) -> tuple[ops.Operation, ...]:
    """x += the weighted sum of what the experts make of `source`; or `target` = that.

    The router reads the activations, which are the rows of `source` in most families, or has `routed` before.

    Raises: CheckpointError if more experts are to be used than there are, or the router knows others.
    """
    router = router_of(checkpoint, names, sizes, i)
    bias = names.bias and names.bias.format(i=i)
    up, down = _matrices(names, sizes, i)
    return (
        *(() if routed else _before_route(names, sizes, i, router, target)),
        ops.Route(
            "router",
            sizes.used,
            sizes.normalized,
            sizes.scores,
            names.correction and names.correction.format(i=i),
            sizes.scale,
            names.scales and names.scales.format(i=i),
            sizes.groups,
            sizes.margin,
        ),
        ops.Gather(source, sizes.weighted_inputs),
        ops.ExpertLinear(up),
        _activation(names, sizes),
        ops.ExpertLinear(down),
        ops.Combine(
            "expert_out",
            target or "x",
            bias if bias in checkpoint.tensors else None,
            target is None or (names.shared is not None and sizes.shared > 0),
            not sizes.weighted_inputs,
        ),
    )


def _activation(names: ExpertNames, sizes: ExpertSizes) -> ops.Operation:
    if sizes.activation == "relu2":
        return ops.Xielu("expert_up", *SQUARED_RELU)
    if not names.is_gated:
        return ops.Gelu("expert_up")
    return ops.Gated("expert_up", sizes.ffn, sizes.activation, limit=sizes.limit, slope=sizes.slope)


_Projections = tuple[tuple[ops.Projection, ...], ...]


def _matrices(names: ExpertNames, sizes: ExpertSizes, i: int) -> tuple[_Projections, _Projections]:
    """Of each expert, what makes "expert_up" of a row and "expert_out" of that."""
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

    experts = range(sizes.count)
    return tuple(up(e) for e in experts), tuple((down(e),) for e in experts)


def router_of(checkpoint: Checkpoint, names: ExpertNames, sizes: ExpertSizes, i: int) -> ops.Projection:
    """What makes a score for each expert of the activations. Raises: as `mixture`."""
    if sizes.used > sizes.count:
        raise CheckpointError(f"'{checkpoint.path}' uses {sizes.used} of {sizes.count} experts.")
    router = checkpoint.tensor(names.router.format(i=i))
    if router.shape[0] != sizes.count:
        raise CheckpointError(
            f"Tensor '{router.name}' has {router.shape[0]} rows where there are {sizes.count} experts."
        )
    bias = names.biases.router and names.biases.router.format(i=i)
    return ops.Projection(router.name, "router", bias=bias, fine=True)


def _before_route(
    names: ExpertNames, sizes: ExpertSizes, i: int, router: ops.Projection, target: str | None
) -> tuple[ops.Operation, ...]:
    """The router, and the expert that works on all tokens: both read the activations of the source."""
    shared = names.shared
    if shared is None or not sizes.shared:
        return (ops.Linear((router,)),)
    gates = () if shared.gate is None else (ops.Projection(shared.gate.format(i=i), "shared_up"),)
    up = ops.Projection(shared.up.format(i=i), "shared_up", sizes.shared if gates else 0)
    door = (
        ()
        if shared.door is None
        else (ops.Projection(shared.door.format(i=i), "door", fine=True, part=ops.Part(0, 1)),)
    )
    inputs, gated = ops.Linear((router, *gates, up, *door)), _shared_activation(sizes)
    down = ops.Projection(shared.down.format(i=i), "shared_out" if door else target or "x")
    if not door:
        return inputs, gated, ops.Linear((down,), accumulate=target is None)
    return (
        inputs,
        gated,
        ops.Linear((down,)),
        ops.Copy("shared_out", target or "x", accumulate=target is None, door="door"),
    )


def _shared_activation(sizes: ExpertSizes) -> ops.Operation:
    if sizes.activation == "relu2":
        return ops.Xielu("shared_up", *SQUARED_RELU)
    return ops.Gated("shared_up", sizes.shared)
