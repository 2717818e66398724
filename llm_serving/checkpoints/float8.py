"""Bytes that are floats of four exponent and three mantissa bits: E4M3 (OCP 8-bit floats, 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def _e4m3() -> Floats:
    """What each of the 256 bytes stands for."""
    codes = np.arange(256)
    exponents, mantissas = codes >> 3 & 15, codes & 7
    sizes = np.where(
        exponents > 0, np.ldexp(1 + mantissas / 8, exponents - 7), np.ldexp(mantissas / 8, -6)
    ).astype(np.float32)
    sizes[exponents * 8 + mantissas == 127] = np.nan
    return np.where(codes < 128, sizes, -sizes).astype(np.float32)


E4M3: Floats = _e4m3()


def scaled(quants: Bytes, scales: Floats, block: tuple[int, int]) -> Bytes:
    """f32 values of `quants` [rows, cols] times the scale of their block, as bytes [rows * cols * 4].

    `scales` has one number for each block of `block` rows and columns; the last ones may be cut.
    """
    rows, cols = quants.shape
    values = E4M3[quants]
    of_columns = np.repeat(scales, min(block[1], cols), axis=1)[:, :cols]
    for index, of_row in enumerate(of_columns):
        values[index * block[0] : (index + 1) * block[0]] *= of_row
    return values.reshape(-1).view(np.uint8)
