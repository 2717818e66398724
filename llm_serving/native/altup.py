"""Rows in several streams (AltUp, Baykal et al. 2023), and what Gemma 3n has beside them, as data."""

from __future__ import annotations

from dataclasses import dataclass

MOST_STREAMS = 8  # kMostStreams in altup.hpp


@dataclass(frozen=True, slots=True)
class AltUpPredict:
    """streams[j] += sum over i of c[j, i] * streams[i], where c = weights @ tanh(router).

    `streams` are 2 to 8 buffers of one width, `router` is one with a number for each; `weights` is the tensor
    of coefficients, [streams * streams, streams].
    """

    streams: tuple[str, ...]
    router: str
    weights: str


@dataclass(frozen=True, slots=True)
class AltUpCorrect:
    """streams[j] += (1 + c[j]) * (source - streams[0]), where c = weights @ tanh(router).

    As `AltUpPredict`, with coefficients of [streams, streams].
    """

    streams: tuple[str, ...]
    source: str
    router: str
    weights: str


@dataclass(frozen=True, slots=True)
class MatchMagnitude:
    """source *= rms(like) / rms(source), the mean of the source's squares taken to be `least` at least."""

    source: str
    like: str
    least: float = 1e-5


@dataclass(frozen=True, slots=True)
class GaussianTopK:
    """x = max(x - (mean + deviations * standard deviation), 0) of the first `cols` columns of `source`.

    Of normally distributed numbers the largest stay (You et al. 2025, "Spark Transformer").
    """

    source: str
    cols: int
    deviations: float
