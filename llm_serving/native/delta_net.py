"""Gated DeltaNet as data: attention over a matrix that the delta rule writes (Yang et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

TAPS = 4  # kTaps in src/delta.hpp


@dataclass(frozen=True, slots=True)
class DeltaHeads:
    """Heads of a layer: so many of queries, as many of keys, and a whole number of value heads for each.

    A row of a layer's source is [queries | keys | values | output gates | beta | decay]. Value head `h` goes
    with key head `h // (values / keys)`, or where they are `tiled` with `h % keys`.
    """

    keys: int
    values: int
    key_dim: int
    value_dim: int
    tiled: bool = False

    @property
    def channels(self) -> int:
        """Of queries, keys and values: what goes through the convolution."""
        return 2 * self.keys * self.key_dim + self.outputs

    @property
    def outputs(self) -> int:
        return self.values * self.value_dim

    @property
    def width(self) -> int:
        return self.channels + self.outputs + 2 * self.values

    @property
    def state_floats(self) -> int:
        """What a sequence keeps: the inputs before its next token, and a matrix for each value head."""
        return (TAPS - 1) * self.channels + self.outputs * self.key_dim


@dataclass(frozen=True, slots=True)
class DeltaInputs:
    """What the delta rule reads, in place: queries, keys and values through a causal convolution of four
    tokens and silu, queries and keys to unit length; beta = sigmoid(beta), and
    decay = exp(rates * softplus(decay + bias)).

    Rates are minus exp of a tensor that holds logarithms (`is_logarithm`), or stand as they are.
    """

    source: str
    heads: DeltaHeads
    taps: str  # tensor [channels, 1, TAPS] or [channels, TAPS]
    rates: str  # [values]
    bias: str
    is_logarithm: bool = True


@dataclass(frozen=True, slots=True)
class DeltaRule:
    """target = state^T @ query, after state = decay * state + key (beta * (value - decay * state^T key))^T.

    One state for each value head; queries are divided by the root of their size.
    """

    source: str
    target: str
    heads: DeltaHeads


@dataclass(frozen=True, slots=True)
class OutputGate:
    """activations = int8(source * activation(gates[:, offset:])), with `weight` of rms_norm(source) by heads;
    or with `gate_first` int8 of the norm of that product, then the weight is of all heads.

    The weight is never offset, as others are by `ModelPlan.norm_offset`.
    """

    source: str
    gates: str
    offset: int = 0
    activation: str = "sigmoid"  # or silu, or relu2, the square of relu
    weight: str | None = None
    head_dim: int = 0  # that a norm is over
    epsilon: float = 0.0
    gate_first: bool = False
