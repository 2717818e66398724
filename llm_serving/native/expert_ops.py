"""Operations of a mixture of experts, as data; `native/ops.py` has all others."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.native.projection import Projection


@dataclass(frozen=True, slots=True)
class Route:
    """Each row goes to the `used` experts with the largest softmax(source), which are its weights there.

    From here on it has a slot for each of them. `normalized` weights have a sum of one; `scales` is a tensor
    with what the weight of each expert is multiplied with then.
    """

    source: str
    used: int
    normalized: bool = False
    scales: str | None = None


@dataclass(frozen=True, slots=True)
class Gather:
    """activations = int8(source), a row for each slot."""

    source: str


@dataclass(frozen=True, slots=True)
class ExpertLinear:
    """target = activations @ tensor.T, of each slot by the projections of its expert."""

    experts: tuple[tuple[Projection, ...], ...]


@dataclass(frozen=True, slots=True)
class Combine:
    """target += bias + the sum of weight * source over the slots of a row; or target = that."""

    source: str
    target: str
    bias: str | None = None
    accumulate: bool = True
