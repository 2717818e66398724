"""A picture as it is, but for sides that are multiples of what becomes one row, and a bound (Qwen-VL)."""

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

MOST_ROWS = 1280  # of a picture, whatever a model says: what Qwen's authors advise where time matters
_LOW_ROWS = 256
_LONGEST = 200  # times as long as it is wide, which the models were trained for
_PATCHES = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnySize(Pixels):
    """A model's image processor that shows pictures in their own shape."""

    patch: int  # pixels a side
    side: int  # patches a side that become one row
    frames: int  # that a patch goes through
    least: int  # pixels in all
    most: int

    @staticmethod
    def read(config: Mapping[str, Any], where: str) -> AnySize:
        """From `preprocessor_config.json`. Raises: CheckpointError, for what is missing or not done here."""
        patch, side, frames = (_count(config.get(key, usual), key, where) for key, usual in _PATCHES.items())
        size: Any = config.get("size") or {}
        if not isinstance(size, dict):
            raise CheckpointError(f"{where}: 'size' is no object.")
        row = (patch * side) ** 2
        least = size.get("shortest_edge", 4 * row) if (own := config.get("min_pixels")) is None else own
        most = size.get("longest_edge", MOST_ROWS * row) if (own := config.get("max_pixels")) is None else own
        least, most = _count(least, "min_pixels", where), _count(most, "max_pixels", where)
        most = min(most, MOST_ROWS * row)
        if not row <= most or least > most:
            raise CheckpointError(f"{where}: images of {least} to {most} pixels cannot be shown.")
        pixels = read_pixels({**_CLIP, **config}, where, resample=3)
        return AnySize(patch=patch, side=side, frames=frames, least=least, most=most, **asdict(pixels))

    @property
    def rows(self) -> int:
        """That a picture becomes at most."""
        return self.most // self._unit**2

    @property
    def low(self) -> AnySize:
        """For those who want as little of a picture as is of use."""
        most = min(self.most, _LOW_ROWS * self._unit**2)
        return self if most == self.most else replace(self, most=most, least=min(self.least, most))

    def grid(self, width: int, height: int) -> Grid:
        """Of a picture of so many pixels. Raises: ValueError for one that is far too long."""
        longer, shorter = max(width, height), min(width, height)
        if longer > _LONGEST * shorter:
            raise ValueError(f"is more than {_LONGEST} times as long as it is wide; cut it")
        unit, area = self._unit, width * height
        sides = [round(side / unit) for side in (width, height)]
        if math.prod(sides) * unit**2 > self.most:
            shrunk = math.sqrt(area / self.most)
            sides = [max(1, math.floor(side / shrunk / unit)) for side in (width, height)]
        elif math.prod(sides) * unit**2 < self.least:
            grown = math.sqrt(self.least / area)
            sides = [math.ceil(side * grown / unit) for side in (width, height)]
        most = self.rows // min(sides)  # for a long picture under a low bound
        across, down = (min(side, max(1, most)) for side in sides)
        return Grid(across * unit, down * unit, 0, 0)

    def cut(self, image: Image.Image) -> tuple[np.ndarray, Grid]:
        """uint8 [1, height, width, 3]. Raises: as `grid`."""
        from PIL import Image

        grid = self.grid(image.width, image.height)
        shown = image.resize((grid.width, grid.height), Image.Resampling(self.resample))
        return np.asarray(shown)[None], grid

    @property
    def _unit(self) -> int:
        return self.patch * self.side


def _count(value: object, key: str, where: str) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise CheckpointError(f"{where}: '{key}' is {str(value)[:60]}; a positive integer is needed.")
    return value
