"""Random weights of every kind that a GGUF file may hold."""

from __future__ import annotations

import gguf
import numpy as np


def random_matrix(
    rng: np.random.Generator, rows: int, columns: int, deviation: float, kind: str
) -> np.ndarray:
    """Rows as a writer takes them: values, or for quantised kinds uint8 [rows, bytes]."""
    if kind in _RANDOM_BLOCKS:
        return _random_blocks(rng, rows, columns, deviation, kind)
    values = rng.normal(0.0, deviation, (rows, columns)).astype(np.float32)
    values[rows // 2] = 0.0  # groups whose scale is zero
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])


# Values of a block, their standard deviation for d = 1, the dmin / d that centres them (0: there is no
# dmin), and the bytes before d and behind it or dmin.
_RANDOM_BLOCKS = {
    "Q2_K": (256, 13.8, 1.5, 80, 0),
    "Q3_K": (256, 43.3, 0, 108, 0),
    "Q4_K": (256, 258, 7.5, 0, 140),
    "Q5_K": (256, 527, 15.5, 0, 172),
    "Q6_K": (256, 1366, 0, 208, 0),
    "IQ4_NL": (32, 67.3, 0, 0, 16),
    "IQ4_XS": (256, 1249, 0, 0, 134),
    "IQ1_S": (256, 7.22, 0, 0, 48),
    "IQ2_XS": (256, 55.9, 0, 0, 72),
    "IQ3_S": (256, 141.7, 0, 0, 108),
}


def _random_blocks(
    rng: np.random.Generator, rows: int, columns: int, deviation: float, kind: str
) -> np.ndarray:
    """Valid rows, uint8 [rows, bytes]: random scales and quants under an f16 scale that fits."""
    size, spread, centre, before, behind = _RANDOM_BLOCKS[kind]
    blocks = (rows, columns // size)
    d = (rng.uniform(0.5, 1.5, (*blocks, 1)) * deviation / spread).astype(np.float16)
    body = rng.integers(0, 256, (*blocks, before + behind), dtype=np.uint8)
    parts = [body[..., :before], d.view(np.uint8), body[..., before:]]
    if centre:
        minimum = (d.astype(np.float32) * centre).astype(np.float16)
        parts.insert(2, minimum.view(np.uint8))
    return np.concatenate(parts, axis=-1).reshape(rows, -1)
