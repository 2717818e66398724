"""Gated short convolutions as data (LFM2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatedConv:
    """target = opens * conv(gates * inputs), `source` = [gates | opens | inputs], each channel by itself.

    `weight` is a tensor [channels, 1, taps] or [channels, taps]: of a token and those before it, it last.
    """

    source: str
    target: str
    weight: str
    taps: int
