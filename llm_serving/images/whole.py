"""A picture as one tile, the whole of it squeezed into a square (Gemma 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_serving.errors import CheckpointError
from llm_serving.images.pixels import LARGEST_SIDE, Grid, Pixels, is_side, read_pixels

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole(Pixels):
    """A model's image processor that cuts nothing."""

    tile: int  # pixels a side

    @staticmethod
    def read(config: Mapping[str, Any], where: str) -> Whole:
        """From `preprocessor_config.json`. Raises: CheckpointError, for what is missing or not done here."""
        if config.get("do_pan_and_scan"):
            raise CheckpointError(f"{where}: 'do_pan_and_scan' is on; pictures are shown whole here.")
        size: Any = config.get("size")
        side = size.get("height") if isinstance(size, dict) else None
        if not is_side(side) or side != size.get("width"):
            raise CheckpointError(
                f"{where}: 'size' has no equal 'height' and 'width' of up to {LARGEST_SIDE} pixels."
            )
        return Whole(tile=side, **asdict(read_pixels(config, where, resample=2)))

    @property
    def low(self) -> Whole:
        """For those who want as little of a picture as the model can look at."""
        return self

    def cut(self, image: Image.Image) -> tuple[np.ndarray, Grid]:
        """uint8 [1, tile, tile, 3]."""
        from PIL import Image

        side = self.tile
        whole = np.asarray(image.resize((side, side), Image.Resampling(self.resample)))
        return whole[None], Grid(side, side, 0, 0)
