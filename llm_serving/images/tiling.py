"""A picture cut into square tiles, with the whole of it as the last one (Idefics 3, SmolVLM)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_serving.errors import CheckpointError

if TYPE_CHECKING:
    from PIL import Image

LARGEST_SIDE = 4096  # pixels, whatever a model says
MOST_TILES = 100


@dataclass(frozen=True, slots=True)
class Grid:
    """How a picture is cut. Without rows and columns there is one tile, the whole of it."""

    width: int  # pixels, of what is cut
    height: int
    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        return self.rows * self.columns + 1


@dataclass(frozen=True, slots=True)
class Tiling:
    """A model's image processor: sides in pixels, and Pillow's number of a resampling filter."""

    longest: int  # side that every picture is brought to first
    tile: int
    splits: bool
    resample: int
    scale: float  # of a byte
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @staticmethod
    def read(config: Mapping[str, Any], where: str) -> Tiling:
        """From `preprocessor_config.json`. Raises: CheckpointError, for what is missing or not done here."""
        for step in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
            if config.get(step, True) is not True:
                raise CheckpointError(f"{where}: '{step}' is off, and images are always prepared so.")
        longest, tile = (_edge(config, key, where) for key in ("size", "max_image_size"))
        splits, resample = config.get("do_image_splitting", True), config.get("resample", 1)
        if type(splits) is not bool or type(resample) is not int or not 0 <= resample <= 5:
            raise CheckpointError(f"{where}: 'do_image_splitting' or 'resample' is of the wrong kind.")
        if math.ceil(longest / tile) ** 2 >= MOST_TILES:
            raise CheckpointError(f"{where}: tiles of {tile} pixels are too small for images of {longest}.")
        return Tiling(
            longest,
            tile,
            splits,
            resample,
            _numbers(config, "rescale_factor", 1 / 255, 1, where)[0],
            _numbers(config, "image_mean", 0.5, 3, where),
            _numbers(config, "image_std", 0.5, 3, where),
        )

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

    def normalized(self, tile: np.ndarray) -> np.ndarray:
        """uint8 [..., 3] → float32: (byte * scale - mean) / deviation, each step in float32."""
        values = (np.arange(256, dtype=np.float64) * self.scale).astype(np.float32)[:, None]
        table = (values - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        out = np.empty(tile.shape, np.float32)
        for channel in range(3):
            np.take(table[:, channel], tile[..., channel], out=out[..., channel])
        return out


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
    if type(edge) is not int or not 0 < edge <= LARGEST_SIDE:
        raise CheckpointError(
            f"{where}: '{key}' has no 'longest_edge' of up to {LARGEST_SIDE} pixels; other sizes are not run."
        )
    return edge


def _numbers(
    config: Mapping[str, Any], key: str, default: float, count: int, where: str
) -> tuple[float, ...]:
    value = config.get(key, default)
    values = value if isinstance(value, list) else [value] * count
    if len(values) != count or any(type(v) not in (int, float) or not 0 <= v < 1e6 for v in values):
        raise CheckpointError(f"{where}: '{key}' is {str(value)[:60]}; {count} numbers are needed.")
    if key != "image_mean" and not all(values):
        raise CheckpointError(f"{where}: '{key}' must not be 0.")
    return tuple(map(float, values))
