"""What turns a picture's tiles into rows for a decoder, as data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_serving.native.ops import EncoderPlan


@dataclass(frozen=True, slots=True)
class VisionPlan:
    """A vision transformer over square tiles, then a projection of some neighbouring patches to one row.

    Of both plans the first operation is `Given`, and what comes out is the buffer "x".
    """

    tower: EncoderPlan  # a row a patch; its context is the number of learned positions
    connector: EncoderPlan  # a row for shuffle x shuffle patches
    tile: int  # pixels a side
    patch: int  # pixels a side
    shuffle: int  # patches a side that become one row (pixel shuffle, Shi et al. 2016)
    columns: int  # of the patch matrix: 3 * patch * patch, and zeros up to a multiple of 32

    @property
    def patches(self) -> int:
        """A side."""
        return self.tile // self.patch

    @property
    def rows(self) -> int:
        """That a tile becomes."""
        return (self.patches // self.shuffle) ** 2

    @property
    def width(self) -> int:
        return self.connector.hidden


def position_ids(patches: int, side: int) -> np.ndarray:
    """int32 [patches * patches]: which of side x side learned positions each patch has, row by row.

    By where it lies in its tile, as a fraction, rounded down to a position (Laurençon et al. 2024). In
    float32, as models were trained: in some sizes a fraction falls just short of its own position.
    """
    step = np.float32(1) / np.float32(patches)
    fractions = np.minimum(np.arange(patches, dtype=np.float32) * step, np.float32(1 - 1e-6))
    boundaries = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)
    along = np.searchsorted(boundaries, fractions, side="right")
    ids: np.ndarray = along[:, None] * side + along[None, :]
    return ids.reshape(-1).astype(np.int32)
