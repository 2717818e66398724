"""How a model sees: what cuts pictures into tiles, and what makes rows for the engine of each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llm_serving.architectures import describe_vision, sees
from llm_serving.checkpoints import Checkpoint, read_image_processor
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError
from llm_serving.images.expansion import SOFT_TOKENS, TILES, Wording
from llm_serving.images.pixels import Grid
from llm_serving.images.tiling import Tiling
from llm_serving.images.whole import Whole
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.vision_plan import VisionNeed, VisionPlan, vision_need

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)


class TileEncoder(Protocol):
    """One thread at a time calls it."""

    rows: int  # that a tile becomes

    def encode(self, tile: np.ndarray) -> np.ndarray:
        """float32 [side, side, 3], normalised → float32 [rows, hidden], depending on nothing else.

        Raises: RequestCancelled after `interrupt`.
        """
        ...

    def interrupt(self) -> None:
        """Have `encode` give up soon, until `resume`. Of any thread."""
        ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class Cutting(Protocol):
    """A model's image processor."""

    @property
    def tile(self) -> int:
        """Pixels a side."""
        ...

    @property
    def low(self) -> Cutting:
        """For those who want as little of a picture as the model can look at; maybe itself."""
        ...

    def cut(self, image: Image.Image) -> tuple[np.ndarray, Grid]:
        """uint8 [tiles, tile, tile, 3], and how it was cut."""
        ...

    def normalized(self, tile: np.ndarray) -> np.ndarray:
        """uint8 [..., 3] → float32, as the encoder takes it."""
        ...


@dataclass(frozen=True, slots=True)
class Sight:
    """Of one model."""

    tiling: Cutting
    encoder: TileEncoder
    wording: Wording = TILES


def load_sight(checkpoint: Checkpoint, options: EngineOptions) -> Sight | None:
    """What the native engine's model sees with; None if it only reads. Blocking.

    Weights are 8-bit, with 16-bit activations, unless --quantization says f32.
    Raises: CheckpointError when its parts do not fit each other.
    """
    found = _read(checkpoint)
    if found is None:
        if sees(checkpoint):
            logger.warning("%s: has no preprocessor_config.json, so it reads no images", checkpoint.path)
        return None
    from llm_serving.native.vision import NativeVision

    tiling, plan, shaped = found
    encoder = NativeVision(
        plan,
        shaped,
        threads=options.threads or cpu_budget().threads,
        weight_format=_weight_format(options),
    )
    return Sight(tiling, encoder, SOFT_TOKENS if _is_gemma(checkpoint) else TILES)


def sight_need(checkpoint: Checkpoint, options: EngineOptions) -> VisionNeed:
    """What `load_sight` will take of the memory. Reads no weights. Raises: as `load_sight`."""
    found = _read(checkpoint) if options.sees else None
    if found is None:
        return VisionNeed(0, frozenset())
    _, plan, shaped = found
    return vision_need(plan, shaped, _weight_format(options), options.threads or cpu_budget().threads)


def check_sight(checkpoint: Checkpoint) -> None:
    """Whether what it sees with fits together. Reads no weights. Raises: as `load_sight`."""
    _read(checkpoint)


def _read(checkpoint: Checkpoint) -> tuple[Cutting, VisionPlan, Checkpoint] | None:
    if not sees(checkpoint):
        return None
    found = read_image_processor(checkpoint.projector or checkpoint)
    if found is None:
        return None
    config, where, rows = found
    tiling: Cutting = (Whole if _is_gemma(checkpoint) else Tiling).read(config, where)
    plan, shaped = describe_vision(checkpoint, tiling.tile)
    if rows not in (None, plan.rows):
        raise CheckpointError(
            f"{where}: an image has {rows} tokens, and the model makes {plan.rows} of a tile."
        )
    return tiling, plan, shaped


def _is_gemma(checkpoint: Checkpoint) -> bool:
    return checkpoint.architecture == "gemma3"


def _weight_format(options: EngineOptions) -> str:
    return "f32" if options.quantization == "f32" else "q8"
