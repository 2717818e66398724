"""A picture in its own shape, as large as a number of places allows (Gemma 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_serving.errors import CheckpointError
from llm_serving.images.pixels import Grid, Pixels, read_pixels

if TYPE_CHECKING:
    from PIL import Image

MOST_ROWS = 280  # of a picture, whatever a model says: what its published settings are
_LOW_ROWS = 70  # the fewest that the models were trained with
_USUAL = {"patch_size": 16, "pooling_kernel_size": 3, "max_soft_tokens": MOST_ROWS}
# What the model's own code makes of bytes: -1 to 1, whatever a file says of means.
_COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling(Pixels):
    """A model's image processor that makes small pictures larger, too."""

    patch: int  # pixels a side
    side: int  # patches a side that become one row
    rows: int  # that a picture becomes at most
    frames: int = 1

    @staticmethod
    def read(config: Mapping[str, Any], where: str, most: int) -> Filling:
        """From `preprocessor_config.json`, with `most` rows whatever it says.

        Raises: CheckpointError, for what is missing or not done here.
        """
        patch, side, rows = (_count(config.get(key, usual), key, where) for key, usual in _USUAL.items())
        pixels = read_pixels({**config, **_COLOURS}, where, resample=3)
        return Filling(patch=patch, side=side, rows=min(rows, most), **asdict(pixels))

    @property
    def low(self) -> Filling:
        """For those who want as little of a picture as is of use."""
        return self if self.rows <= _LOW_ROWS else replace(self, rows=_LOW_ROWS)

    def grid(self, width: int, height: int) -> Grid:
        """Of a picture of so many pixels: its sides rounded down to whole rows, one at least."""
        unit = self.patch * self.side
        factor = math.sqrt(self.rows * self.side**2 * self.patch**2 / (height * width))
        down, across = (math.floor(factor * side / unit) for side in (height, width))
        if not down:
            down, across = 1, min(width // height, self.rows)
        elif not across:
            down, across = min(height // width, self.rows), 1
        return Grid(across * unit, down * unit, 0, 0)

    def cut(self, image: Image.Image) -> tuple[np.ndarray, Grid]:
        """uint8 [1, height, width, 3]."""
        from PIL import Image

        grid = self.grid(image.width, image.height)
        shown = image.resize((grid.width, grid.height), Image.Resampling(self.resample))
        return np.asarray(shown)[None], grid


def _count(value: object, key: str, where: str) -> int:
    if type(value) is not int or not 0 < value < 1 << 16:
        raise CheckpointError(f"{where}: '{key}' is {str(value)[:60]}; a positive integer is needed.")
    return value
