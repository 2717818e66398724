"""Operations of attention, as data; `native/ops.py` has all others."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.native.biases import BucketBias, LinearBias, WindowBias
from llm_serving.native.rope import Rope


@dataclass(frozen=True, slots=True)
class RopeStore:
    """Rotate queries and keys of `source` = [queries | keys | values]; write keys and values to the cache."""

    source: str
    layer: int
    rope: Rope | None = None  # of this layer, where it is not the plan's
    keys_are_values: bool = False  # then `source` has no others


@dataclass(frozen=True, slots=True)
class Attention:
    """target = softmax(queries @ keys * scale) @ values over each token's own context.

    `source` begins with the queries; `layer` is the one whose keys and values are read.
    With a `cap` scores are cap * tanh(score / cap) before the softmax. `sinks` is a tensor with a score for
    each query head, one more in the softmax that has no value: weights then add up to less than one.
    Rows of a span see those that come, if this looks `ahead`. A `chunk`, a multiple of 256 and the same in
    all layers that have one, cuts the context in stretches of so many tokens: a token sees its own.
    Scores may be `falling` with the distance; then there is no window.
    """

    source: str
    target: str
    layer: int
    scale: float
    window: int = 0  # the last so many tokens only, the query's own counted in; 0: all
    cap: float = 0.0
    sinks: str | None = None
    ahead: bool = True
    chunk: int = 0
    falling: LinearBias | None = None


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """rms_norm of each head of `source[:, offset : offset + width]`; layer_norm with a bias.

    `gain` multiplies the weights, which are ones without a tensor. Of the weights of a head as many as
    `interleaved` says stand in rotary pairs, as its rows do (see `Projection`).
    """

    source: str
    offset: int
    width: int
    heads: int  # which share that equally
    weight: str | None
    epsilon: float
    bias: str | None = None
    gain: float = 1.0
    interleaved: int = 0


@dataclass(frozen=True, slots=True)
class Rotate:
    """Rotate the first `heads` heads of `source` in place, or of these the `first` and each `stride`-th."""

    source: str
    heads: int
    head_dim: int
    rope: Rope
    first: int = 0
    stride: int = 1


@dataclass(frozen=True, slots=True)
class EncoderAttention:
    """target = attention inside each sequence; `source` = [queries | keys | values], nothing is cached.

    With `whole` all tokens of a step are one sequence: those of the step are windows of it, for others.
    """

    source: str
    target: str
    heads: int
    kv_heads: int
    scale: float
    causal: bool = False
    bias: WindowBias | BucketBias | LinearBias | None = None
    whole: bool = False
