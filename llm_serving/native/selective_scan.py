"""Mamba's first version as data: channels whose states fade at rates of their own (Gu & Dao 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.native.delta_net import TAPS


@dataclass(frozen=True, slots=True)
class Channels:
    """Of a layer: `count` of them, each with a state of `state` numbers."""

    count: int
    state: int

    @property
    def state_floats(self) -> int:
        """What a sequence keeps: the inputs before its next token, and a state for each channel."""
        return (TAPS - 1 + self.state) * self.count


@dataclass(frozen=True, slots=True)
class ShortConv:
    """source = silu(a causal convolution of four tokens, each column by itself, and its bias if any)."""

    source: str
    taps: str  # tensor [channels, 1, TAPS] or [channels, TAPS]
    bias: str | None  # [channels]


@dataclass(frozen=True, slots=True)
class SelectiveScan:
    """target = state C + skips * x, after state = exp(rates * step) * state + B step x, of each channel.

    x is `source`, step = softplus(`steps`), and a row of `both` is [B | C], one for all channels. Rates are
    minus exp of a tensor that holds logarithms (`is_logarithm`), or stand as they are.
    """

    source: str
    steps: str
    both: str
    target: str
    channels: Channels
    rates: str  # [channels, state]
    skips: str  # [channels]
    is_logarithm: bool = True
