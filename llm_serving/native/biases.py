"""What attention adds to the score of a key by its distance from the query, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowBias:
    """A token sees `reach` tokens to either side, and no others (sliding window)."""

    reach: int
    ahead: bool = False  # it sees all that comes, as far as anything lets it


@dataclass(frozen=True, slots=True)
class BucketBias:
    """T5's learned bias by distance (Raffel et al. 2020), as MPNet has it: tensor [buckets, heads]."""

    tensor: str
    max_distance: int = 128


@dataclass(frozen=True, slots=True)
class LinearBias:
    """ALiBi (Press et al. 2022) to both sides: a score loses the head's slope for each token of distance.

    The last slope of a power of two of heads is 2^-`steepness`, and all are multiplied by `scale`.
    """

    heads: int
    steepness: float = 8.0
    scale: float = 1.0
