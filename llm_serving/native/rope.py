"""Rotary position embedding as data, and what its extensions divide frequencies by."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021): angle = position * theta^(-2i/rotated) / factor_i."""

    theta: float
    rotated: int  # dimensions of a head that rotate
    linear_factor: float = 1.0  # divides every position
    factors_tensor: str | None = None  # float32 [rotated/2], divides each frequency (Llama 3)
    factors: tuple[float, ...] = ()  # the same, where no tensor holds them
    magnitude: float = 1.0  # of what is rotated, afterwards (YaRN, LongRoPE)
    near_factors: tuple[float, ...] = ()  # instead, where a context has no more than `near` tokens (LongRoPE)
    near: int = 0
    growth: float = 0.0  # > 0: of the magnitude, times 1 + growth * log(1 + position // span) (Llama 4),
    span: int = 1
    first: int = 0  # where the first position is this one
    # Which of a token's rotary positions turns each frequency: 0 time, 1 height, 2 width (M-RoPE, Wang et al.
    # 2024). Where a step does not tell them, all three are the token's position, as without axes.
    axes: tuple[int, ...] = ()

    @property
    def still(self) -> Rope:
        """The same dimensions, turned by nothing: for layers that are not told positions."""
        return Rope(self.theta, self.rotated, linear_factor=math.inf)


def axial_rope(theta: float, rotated: int) -> Rope:
    """Of a patch: half of the frequencies go by its row, half by its column, both from 1 on."""
    each = rotated // 4
    return Rope(
        theta**2, rotated, factors=(1.0,) * each + (1 / theta,) * each, axes=(1,) * each + (2,) * each
    )


def proportional_factors(rotated: int, share: float) -> tuple[float, ...]:
    """Of all frequencies this share turns, the fastest ones; the others stand (Gemma 4)."""
    turning = int(share * rotated // 2)
    return (1.0,) * turning + (math.inf,) * (rotated // 2 - turning)


def llama3_factors(
    theta: float, rotated: int, factor: float, low: float, high: float, length: float
) -> tuple[float, ...]:
    """1 for waves of more than `high` turns within the `length` trained for first, `factor` for less than
    `low`, a mixture between (Llama 3.1). Where both are equal, nothing is between (Llama 4).
    """
    factors = []
    for i in range(0, rotated, 2):
        turns = length * theta ** (-i / rotated) / (2 * math.pi)
        mix = min(max((turns - low) / (high - low), 0.0), 1.0) if low < high else float(turns >= low)
        factors.append(1 / ((1 - mix) / factor + mix))
    return tuple(factors)


def yarn_factors(
    theta: float,
    rotated: int,
    factor: float,
    length: float,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> tuple[float, ...]:
    """1 up to the dimension with `fast` turns within `length`, `factor` from the one with `slow` turns on,
    a mixture by dimensions between (YaRN, Peng et al. 2023). `theta` is above 1. Without `truncate` the two
    may lie between dimensions.
    """

    def dimension(turns: float) -> float:
        waves = min(max(length / (turns * 2 * math.pi), 1e-300), 1e300)  # whatever a file says
        return rotated * math.log(waves) / (2 * math.log(theta))

    first, last = dimension(fast), dimension(slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotated - 1)
    span = last - first if last != first else 0.001
    factors = []
    for i in range(rotated // 2):
        mix = min(max((i - first) / span, 0.0), 1.0)
        factors.append(1 / (mix / factor + (1 - mix)))
    return tuple(factors)


def are_factors(values: object, rotated: int) -> bool:
    """Whether this is a list of what frequencies can be divided by, one for each."""
    return (
        isinstance(values, list)
        and len(values) == rotated // 2
        and all(type(value) in (int, float) and 1e-6 <= value <= 1e6 for value in values)
    )


def longrope_magnitude(factor: float, length: float) -> float:
    """For a context `factor` times the `length` trained for first (LongRoPE, Ding et al. 2024)."""
    return math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1.0 and length > 1.0 else 1.0


def yarn_magnitude(factor: float, share: float = 1.0) -> float:
    """What the authors of YaRN found best for a context `factor` times as long, or a `share` of it."""
    return 0.1 * share * math.log(factor) + 1.0 if factor > 1.0 else 1.0
