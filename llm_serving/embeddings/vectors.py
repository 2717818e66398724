"""Arithmetic on finished embeddings."""

from __future__ import annotations

import numpy as np


def shorten(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """The first `dimensions` numbers of each row, at length 1 again (Kusupati et al. 2022, Matryoshka)."""
    if dimensions >= vectors.shape[1]:
        return vectors
    return unit(vectors[:, :dimensions])


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; a row of zeros stays as it is."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    ones: np.ndarray = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return ones.astype(np.float32)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 [rows]: the cosine of each row of `first` with its row of `second`; 0 where one is all zeros.

    `first` may be one row for all.
    """
    products: np.ndarray = np.einsum(
        "ij,ij->i", *np.broadcast_arrays(unit(first), unit(second)), dtype=np.float64
    )
    return products
