"""Operations of a mixture of experts, as data; `src/experts.hpp` computes them."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.native.projection import Projection


@dataclass(frozen=True, slots=True)
class ExpertGroups:
    """Experts in `count` groups, one behind the other. Only those of the `used` best are chosen from.

    A group is as good as the sum of its `best` largest scores.
    """

    count: int
    used: int
    best: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """Each row goes to the `used` experts with the largest softmax(source), which are its weights there.

    From here on it has a slot for each of them. `normalized` weights have a sum of one. Instead of softmax
    `scores` may be sigmoid. `correction` is a tensor that is added to them to choose, and only for that;
    `scale` multiplies weights, and so do `scales`, a tensor with a number for each expert.
    With a `margin` the weight of an expert is its softmax over those not chosen before it that are near it:
    less than `margin` times the larger logit, or its own size, apart (SparseMixer, Liu et al. 2024).
    """

    source: str
    used: int
    normalized: bool = False
    scores: str = "softmax"
    correction: str | None = None
    scale: float = 1.0
    scales: str | None = None
    groups: ExpertGroups | None = None
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Gather:
    """activations = int8(source), a row for each slot; times the slot's weight if `weighted`."""

    source: str
    weighted: bool = False


@dataclass(frozen=True, slots=True)
class ExpertLinear:
    """target = activations @ tensor.T, of each slot by the projections of its expert."""

    experts: tuple[tuple[Projection, ...], ...]


@dataclass(frozen=True, slots=True)
class Combine:
    """target += bias + the sum of weight * source over the slots of a row; or target = that.

    Without `weighted` the weights are one: what experts read was weighted.
    """

    source: str
    target: str
    bias: str | None = None
    accumulate: bool = True
    weighted: bool = True
