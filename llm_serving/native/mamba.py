"""Mamba-2 as data: a state that each token fades by a number a head, and adds to (Dao & Gu 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.native.delta_net import TAPS


@dataclass(frozen=True, slots=True)
class MambaHeads:
    """Heads of a layer: `count` of `dim` dimensions, whose states have `state` rows.

    Those of one of `groups`, which follow each other, share B and C.

    A row of a layer's source is [output gates | x | B of each group | C of each group | steps].
    """

    count: int
    dim: int
    groups: int
    state: int

    @property
    def inner(self) -> int:
        return self.count * self.dim

    @property
    def channels(self) -> int:
        """Of x, B and C: what goes through the convolution."""
        return self.inner + 2 * self.groups * self.state

    @property
    def width(self) -> int:
        return self.inner + self.channels + self.count

    @property
    def state_floats(self) -> int:
        """What a sequence keeps: the inputs before its next token, and a matrix for each head."""
        return (TAPS - 1) * self.channels + self.inner * self.state


@dataclass(frozen=True, slots=True)
class MambaInputs:
    """What the scan reads, in place: x, B and C through a causal convolution of four tokens, its bias if it
    has one, and silu; step = softplus(step + bias).
    """

    source: str
    heads: MambaHeads
    taps: str  # tensor [channels, 1, TAPS] or [channels, TAPS]
    conv_bias: str | None  # [channels]
    bias: str  # [count]


@dataclass(frozen=True, slots=True)
class MambaScan:
    """target = state^T C + skips * x, after state = exp(rates * step) * state + B (step * x)^T.

    One state for each head. Rates are minus exp of a tensor that holds logarithms (`is_logarithm`), or stand
    as they are.
    """

    source: str
    target: str
    heads: MambaHeads
    rates: str  # [count], or [count, 1]
    skips: str
    is_logarithm: bool = True
