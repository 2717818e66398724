"""Keys and values in 4 bits in plain numpy: turned, and rounded to the nearest of sixteen values."""

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
