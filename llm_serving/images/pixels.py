"""What all image processors do to the pixels of a tile, and how their files say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from llm_serving.errors import CheckpointError

LARGEST_SIDE = 4096  # pixels, whatever a model says


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """`resample` is Pillow's number of a filter."""

    resample: int
    scale: float  # of a byte
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def normalized(self, tile: np.ndarray) -> np.ndarray:
        """uint8 [..., 3] → float32: (byte * scale - mean) / deviation, each step in float32."""
        values = (np.arange(256, dtype=np.float64) * self.scale).astype(np.float32)[:, None]
        table = (values - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        out = np.empty(tile.shape, np.float32)
        for channel in range(3):
            np.take(table[:, channel], tile[..., channel], out=out[..., channel])
        return out


def read_pixels(config: Mapping[str, Any], where: str, resample: int) -> Pixels:
    """From `preprocessor_config.json`, with the filter its processor means where it names none.

    Raises: CheckpointError, for what is of the wrong kind or not done here.
    """
    if config.get("do_convert_rgb") not in (None, True):  # nothing else can be shown to a model
        raise CheckpointError(f"{where}: 'do_convert_rgb' is off, and images are always made RGB.")
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if config.get(step, True) is not True:
            raise CheckpointError(f"{where}: '{step}' is off, and images are always prepared so.")
    resample = config.get("resample", resample)
    if type(resample) is not int or not 0 <= resample <= 5:
        raise CheckpointError(f"{where}: 'resample' is not the number of a filter, 0 to 5.")
    return Pixels(
        resample=resample,
        scale=_numbers(config, "rescale_factor", 1 / 255, 1, where)[0],
        mean=_numbers(config, "image_mean", 0.5, 3, where),
        deviation=_numbers(config, "image_std", 0.5, 3, where),
    )


def is_side(value: object) -> TypeGuard[int]:
    """Whether this is a number of pixels that a side may have."""
    return type(value) is int and 0 < value <= LARGEST_SIDE


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
