"""Keys and values in few bits in plain numpy: turned, in 4 bits rounded to the nearest of sixteen values."""

from __future__ import annotations

import numpy as np

SIZES = np.array([7, 20, 33, 48, 63, 80, 100, 127], np.float32)
VALUES = np.concatenate([-SIZES[::-1], SIZES])
LARGEST = np.float32(133)  # what the largest of a vector is, in units of VALUES


def turned(x: np.ndarray) -> np.ndarray:
    """Vectors along the last axis, by Hadamard's matrix of the largest power of two that divides them."""
    dims = x.shape[-1]
    hadamard = np.ones((1, 1))
    while dims % (2 * len(hadamard)) == 0:
        hadamard = np.kron(hadamard, [[1, 1], [1, -1]])
    parts = x.reshape(*x.shape[:-1], -1, len(hadamard)).astype(np.float64)
    return (parts @ hadamard / np.sqrt(len(hadamard))).reshape(x.shape).astype(np.float32)


def coded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of codes for each vector along the last axis, turned already, and the best scale [..., 1]."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    factor = np.divide(LARGEST, largest, out=np.zeros_like(largest), where=largest > 1e-30)
    values = VALUES[np.abs((x * factor)[..., None] - VALUES).argmin(axis=-1)]
    scale = (x * values).sum(axis=-1, keepdims=True) / np.square(values).sum(axis=-1, keepdims=True)
    return values, scale


def of_slow_pairs(bias: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The bias [heads, dims] of what is stored as halves, where it turns by a rad at most in the context."""
    stays = np.tile(np.abs(angles) <= 1, 2)
    return bias * np.pad(stays, (0, bias.shape[-1] - len(stays)), constant_values=True)


def rounded_factors(x: np.ndarray, most_sum: float) -> np.ndarray:
    """Vectors along the last axis as int16 with a scale; magnitudes add up to about `most_sum` at most."""
    sizes = np.abs(x)
    scale = np.maximum(
        sizes.max(axis=-1, keepdims=True) / np.float32(32767),
        sizes.sum(axis=-1, keepdims=True, dtype=np.float32) / np.float32(most_sum),
    )
    factor = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 1e-30)
    return np.rint(x * factor) * scale
