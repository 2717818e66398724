"""Kinds of less than four bits that are computed with as a kind of four, which holds the same values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_serving.checkpoints.grid_blocks import from_grids
from llm_serving.checkpoints.kinds import KINDS
from llm_serving.checkpoints.ternary_blocks import to_q4_0

Bytes = NDArray[np.uint8]

HELD_AS = (
    dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"), "IQ2_CODED")
    | {"IQ3_XXS": "IQ3_XXS_CODED", "IQ3_S": "IQ3_S_CODED"}
    | dict.fromkeys(("TQ1_0", "TQ2_0", "Q1_0", "Q2_0"), "Q4_0")
)
CHUNK_BLOCKS = 1 << 10  # bounds the temporaries, and keeps them in a core's cache


def to_held(kind: str, data: Bytes) -> Bytes:
    """uint8 [bytes] of blocks of `kind`, a key of `HELD_AS`, to those of the kind that is its value.

    Raises: CheckpointError if there are no grids.
    """
    source, held = KINDS[kind], KINDS[HELD_AS[kind]]
    unpack = to_q4_0 if held.name == "Q4_0" else from_grids
    blocks = data.reshape(-1, source.block_bytes)
    # A block becomes one or several.
    out = np.empty((len(blocks), source.block_size // held.block_size * held.block_bytes), np.uint8)
    for start in range(0, len(blocks), CHUNK_BLOCKS):
        chunk = blocks[start : start + CHUNK_BLOCKS]
        out[start : start + CHUNK_BLOCKS] = unpack(kind, chunk.reshape(-1)).reshape(len(chunk), -1)
    return out.reshape(-1)
