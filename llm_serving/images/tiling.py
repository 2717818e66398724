"""A picture cut into square tiles, with the whole of it as the last one (Idefics 3, SmolVLM)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_serving.errors import CheckpointError
from llm_serving.images.pixels import LARGEST_SIDE, Grid, Pixels, is_side, read_pixels

if TYPE_CHECKING:
    from PIL import Image

MOST_TILES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling(Pixels):
    """A model's image processor."""

    tile: int  # pixels a side
    longest: int  # side in pixels that every picture is brought to first
    splits: bool

    @staticmethod
    def read(config: Mapping[str, Any], where: str) -> Tiling:
        """From `preprocessor_config.json`. Raises: CheckpointError, for what is missing or not done here."""
        longest, tile = (_edge(config, key, where) for key in ("size", "max_image_size"))
        splits = config.get("do_image_splitting", True)
        if type(splits) is not bool:
            raise CheckpointError(f"{where}: 'do_image_splitting' is neither true nor false.")
        if math.ceil(longest / tile) ** 2 >= MOST_TILES:
            raise CheckpointError(f"{where}: tiles of {tile} pixels are too small for images of {longest}.")
        pixels = read_pixels(config, where, resample=1)
        return Tiling(tile=tile, longest=longest, splits=splits, **asdict(pixels))

    @property
    def low(self) -> Tiling:
        """For those who want as little of a picture as the model can look at: the whole, in one tile."""
        return replace(self, splits=False) if self.splits else self

    def grid(self, width: int, height: int) -> Grid:
        """Of a picture of so many pixels."""
        if not self.splits:
            return Grid(self.tile, self.tile, 0, 0)
        width, height = _scaled(width, height, self.longest)
        shape = width / height
        if width >= height:
            width = _whole(width, self.tile)
            height = _whole(int(width / shape), self.tile)
        else:
            height = _whole(height, self.tile)
            width = _whole(int(height * shape), self.tile)
        rows, columns = height // self.tile, width // self.tile
        return Grid(width, height, rows, columns) if rows * columns > 1 else Grid(width, height, 0, 0)

    def cut(self, image: Image.Image) -> tuple[np.ndarray, Grid]:
        """uint8 [tiles, tile, tile, 3], row by row and then the whole; and how it was cut."""
        from PIL import Image

        grid, side = self.grid(image.width, image.height), self.tile
        resample = Image.Resampling(self.resample)
        image = image.resize(_scaled(image.width, image.height, self.longest), resample)
        image = image.resize((grid.width, grid.height), resample)
        tiles = np.empty((grid.tiles, side, side, 3), np.uint8)
        if grid.rows:
            pixels = np.asarray(image).reshape(grid.rows, side, grid.columns, side, 3)
            tiles[:-1] = pixels.transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
            image = image.resize((side, side), resample)
        tiles[-1] = np.asarray(image)
        return tiles, grid


def _scaled(width: int, height: int, longest: int) -> tuple[int, int]:
    """With the longer side as long as that; the other one even, as the models were trained."""
    shape = width / height
    if width >= height:
        width, height = longest, int(longest / shape)
        height += height % 2
    else:
        width, height = int(longest * shape), longest
        width += width % 2
    return max(width, 1), max(height, 1)


def _whole(size: int, tile: int) -> int:
    return math.ceil(size / tile) * tile


def _edge(config: Mapping[str, Any], key: str, where: str) -> int:
    size = config.get(key)
    edge = size.get("longest_edge") if isinstance(size, dict) else None
    if not is_side(edge):
        raise CheckpointError(
            f"{where}: '{key}' has no 'longest_edge' of up to {LARGEST_SIDE} pixels; other sizes are not run."
        )
    return edge
