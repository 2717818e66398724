"""Constant tables of a plan: rotations, row orders, positions, attention biases. Computed in float64."""

from __future__ import annotations

import numpy as np

from llm_serving.checkpoints import Checkpoint, Tensor, dequantize
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.selective_scan import Channels

PADDING = 16  # columns after the last distance, kBlockTokens in kernels.hpp
UNSEEN = np.float32(-1e30)
_STRIDE = 256  # positions


def halves_order(rows: int, head_dim: int, rotated: int = 0) -> np.ndarray:
    """int32 [rows]: for each row of the halves form, the row of the interleaved form that belongs there.

    With `rotated` that is the form of the first so many rows of each head.
    """
    end = rotated or head_dim
    within = np.concatenate([np.arange(0, end, 2), np.arange(1, end, 2), np.arange(end, head_dim)])
    order: np.ndarray = (np.arange(0, rows, head_dim)[:, None] + within[None, :]).reshape(-1)
    return order.astype(np.int32)


def rope_table(rope: ops.Rope, checkpoint: Checkpoint, positions: int) -> np.ndarray:
    """float32 [positions, rotated]: cosines, then sines, of a context of so many positions.

    Raises: CheckpointError when the frequency factors do not fit.
    """
    lengths = np.full(positions, rope.magnitude, np.float64)
    if rope.growth:
        lengths *= 1 + rope.growth * np.log1p((np.arange(positions) + rope.first) // rope.span)
    return _rotations(frequencies_of(rope, checkpoint, positions), lengths)


def frequencies_of(rope: ops.Rope, checkpoint: Checkpoint, positions: int) -> np.ndarray:
    """float64 [rotated / 2], rad a position, in a context of so many. Raises: as `rope_table`."""
    frequencies = rope.theta ** (-np.arange(0, rope.rotated, 2, dtype=np.float64) / rope.rotated)
    if rope.factors_tensor is not None:
        stored = dequantize(checkpoint.tensors[rope.factors_tensor]).reshape(-1).astype(np.float64)
        if stored.size != frequencies.size or not np.all(stored > 0):
            raise CheckpointError(
                f"Tensor '{rope.factors_tensor}' does not fit {rope.rotated} rotated dimensions."
            )
        frequencies = frequencies / stored
    elif factors := rope.near_factors if positions <= rope.near else rope.factors:
        frequencies = frequencies / np.array(factors)
    per_position: np.ndarray = frequencies / rope.linear_factor
    return per_position


def _rotations(frequencies: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """float32 [positions, 2 * pairs]: cosines, then sines, of position * frequency, times `lengths`.

    An angle is a sum of two, so a product of two complex numbers: a tenth of the time of all cosines and
    sines, and no more memory than the table, which long contexts make large.
    """
    pairs = len(frequencies)
    within = _on_circle(np.arange(_STRIDE)[:, None] * frequencies)
    table = np.empty((len(lengths), 2 * pairs), np.float32)
    for first in range(0, len(lengths), _STRIDE):
        here = slice(first, first + _STRIDE)
        rows = table[here]
        turned = within[: len(rows)] * _on_circle(first * frequencies) * lengths[here, None]
        rows[:, :pairs], rows[:, pairs:] = turned.real, turned.imag
    return table


def _on_circle(angles: np.ndarray) -> np.ndarray:
    """complex128, of radians."""
    points: np.ndarray = np.cos(angles) + 1j * np.sin(angles)
    return points


def position_table(positions: np.ndarray, segments: np.ndarray | None, skip: int, context: int) -> np.ndarray:
    """float32 [segments * context, width]: position + segment rows, segment by segment."""
    rows = positions[skip : skip + context]
    if len(rows) < context:
        raise CheckpointError(f"The model has {len(rows)} positions where {context} are needed.")
    if segments is None:
        return rows
    table: np.ndarray = np.concatenate([rows + segment for segment in segments])
    return table


def window_bias(bias: ops.WindowBias, context: int) -> np.ndarray:
    """float32 [2 * context + PADDING] by key - query, starting at 1 - context."""
    distances = np.arange(1 - context, context + 1 + PADDING)
    is_near = np.abs(distances) <= bias.reach
    table: np.ndarray = np.where(is_near | (bias.ahead & (distances > 0)), np.float32(0), UNSEEN)
    return table.astype(np.float32)


def linear_bias(bias: ops.LinearBias, context: int) -> np.ndarray:
    """float32 [heads * (2 * context + PADDING)] by head and key - query: minus slope * distance.

    Slopes are 2^(-8/n), 2^(-16/n), … for n heads, a power of two. More heads take every second one of 2 n.
    """
    power, steepness = 1 << (bias.heads.bit_length() - 1), bias.steepness
    slopes = np.exp2(-steepness / power * np.arange(1, power + 1))
    further = np.exp2(-steepness / 2 / power * np.arange(1, 2 * power + 1, 2))
    slopes = bias.scale * np.concatenate([slopes, further])[: bias.heads]
    distances = np.abs(np.arange(1 - context, context + 1 + PADDING))
    table: np.ndarray = (-slopes[:, None] * distances).astype(np.float32)
    return table.reshape(-1)


def conv_taps(tensor: Tensor, channels: int, taps: int) -> np.ndarray:
    """float32 [taps * channels]: of a short convolution, the taps of the oldest input first.

    Raises: CheckpointError for one of another size.
    """
    if tensor.shape not in ((channels, 1, taps), (channels, taps)):
        raise CheckpointError(
            f"Tensor '{tensor.name}' has shape {tensor.shape} where {channels} channels of {taps} are needed."
        )
    table: np.ndarray = dequantize(tensor).reshape(channels, taps).T.reshape(-1)
    return table


def decay_rates(tensor: Tensor, heads: int, is_logarithm: bool) -> np.ndarray:
    """float32 [heads], none positive: what a state fades by. Raises: CheckpointError for others."""
    rates = dequantize(tensor).reshape(-1).astype(np.float64)
    if is_logarithm:
        rates = -np.exp(np.minimum(rates, 80.0))
    if rates.size != heads or not np.all(rates <= 0):
        raise CheckpointError(f"Tensor '{tensor.name}' does not hold the decay of {heads} heads.")
    return rates.astype(np.float32)


def channel_rates(tensor: Tensor, channels: Channels, is_logarithm: bool) -> np.ndarray:
    """float32 [state * channels], none positive: what states fade by, number by number.

    Raises: CheckpointError for others.
    """
    shape = (channels.count, channels.state)
    if tensor.shape != shape:
        raise CheckpointError(f"Tensor '{tensor.name}' has shape {tensor.shape} where {shape} is needed.")
    rates = decay_rates(tensor, channels.count * channels.state, is_logarithm)
    table: np.ndarray = np.ascontiguousarray(rates.reshape(shape).T).reshape(-1)
    return table


def bucket_bias(table: np.ndarray, max_distance: int, context: int) -> np.ndarray:
    """float32 [heads * (2 * context + PADDING)] by head and key - query; `table` is [buckets, heads].

    Half of the buckets are for keys after the query; in each half, half are exact distances and the rest
    grow logarithmically up to `max_distance`.
    """
    distances = np.arange(1 - context, context + 1 + PADDING)
    half = len(table) // 2
    exact = half // 2
    size = np.abs(distances)
    grown = np.log(np.maximum(size, 1) / exact) / np.log(max_distance / exact) * (half - exact)
    bucket = np.where(size < exact, size, np.minimum(exact + grown.astype(np.int64), half - 1))
    bucket = bucket + half * (distances > 0)
    rows: np.ndarray = np.ascontiguousarray(table[bucket].T, dtype=np.float32)
    return rows.reshape(-1)
