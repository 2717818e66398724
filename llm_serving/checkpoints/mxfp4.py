"""Matrices of experts in MXFP4 as directories have them: values in one tensor, their exponents in another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

GROUP_BYTES = 16  # of 32 values


def to_blocks(values: Bytes, exponents: Bytes) -> Bytes:
    """ggml's blocks, uint8 [groups * 17], of `values` [groups * 16] and `exponents` [groups].

    A byte holds two neighbours there, the first one in its low nibble; in a block it holds values 16 apart.
    """
    blocks = np.empty((len(exponents), 1 + GROUP_BYTES), np.uint8)
    blocks[:, 0] = exponents
    blocks[:, 1:] = halves_apart(values.reshape(-1, GROUP_BYTES))
    return blocks.reshape(-1)


def halves_apart(groups: Bytes) -> Bytes:
    """uint8 [groups, 16]: of 32 nibbles, neighbours in a byte become those 16 apart."""
    first, second = groups[:, : GROUP_BYTES // 2], groups[:, GROUP_BYTES // 2 :]
    apart = np.empty_like(groups)
    apart[:, 0::2] = first & 0x0F | second << 4
    apart[:, 1::2] = first >> 4 | second & 0xF0
    return apart
