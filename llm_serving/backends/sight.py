"""How a model sees: what cuts pictures into tiles, and what makes rows for the engine of each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llm_serving.architectures import ANY_SIZE_FAMILIES, describe_any_size, describe_vision, sees
from llm_serving.checkpoints import Checkpoint, read_image_processor
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError
from llm_serving.images.any_size import AnySize
from llm_serving.images.expansion import PADDINGS, PADS, SOFT_TOKENS, TILES, Wording
from llm_serving.images.filling import MOST_ROWS, Filling
from llm_serving.images.pixels import Grid
from llm_serving.images.tiling import Tiling
from llm_serving.images.whole import Whole
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.vision_plan import AnySizePlan, VisionNeed, VisionPlan, vision_need

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)


class TileEncoder(Protocol):
    """One thread at a time calls it."""

    def shape(self, grid: Grid) -> tuple[int, int]:
        """Rows and columns of places that each tile of such a picture becomes."""
        ...

    def encode(self, tile: np.ndarray) -> np.ndarray:
        """float32 [height, width, 3], normalised → float32 [places, width], depending on nothing else.

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
    def low(self) -> Cutting:
        """For those who want as little of a picture as the model can look at; maybe itself."""
        ...

    def cut(self, image: Image.Image) -> tuple[np.ndarray, Grid]:
        """uint8 [tiles, height, width, 3], and how it was cut.

        Raises: ValueError that says what is wrong with a picture of such a shape.
        """
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
    by_axes: bool = False  # whether rotary positions go by a place's row and column


def load_sight(checkpoint: Checkpoint, options: EngineOptions) -> Sight | None:
    """What the native engine's model sees with; None if it only reads. Blocking.

    Weights are 8-bit, with 16-bit activations (bfloat16 with AMX), unless --quantization says f32.
    Raises: CheckpointError when its parts do not fit each other.
    """
    found = _read(checkpoint)
    if found is None:
        if sees(checkpoint):
            logger.warning("%s: has no preprocessor_config.json, so it reads no images", checkpoint.path)
        return None
    from llm_serving.native.any_size_vision import AnySizeVision
    from llm_serving.native.vision import NativeVision

    tiling, plan, shaped = found
    threads, weight_format = options.threads or cpu_budget().threads, _weight_format(options)
    if isinstance(plan, AnySizePlan):
        any_size = AnySizeVision(plan, shaped, threads=threads, weight_format=weight_format)
        if isinstance(tiling, Filling):
            return Sight(tiling, any_size, PADDINGS)
        return Sight(tiling, any_size, PADS, by_axes=True)
    encoder = NativeVision(plan, shaped, threads=threads, weight_format=weight_format)
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


def _read(checkpoint: Checkpoint) -> tuple[Cutting, VisionPlan | AnySizePlan, Checkpoint] | None:
    if not sees(checkpoint):
        return None
    found = read_image_processor(checkpoint.projector or checkpoint)
    if found is None:
        return None
    config, where, rows = found
    family = (checkpoint.projector or checkpoint).architecture
    if family == "gemma4":
        return _read_any_size(checkpoint, Filling.read(config, where, MOST_ROWS), where)
    if family in ANY_SIZE_FAMILIES:
        return _read_any_size(checkpoint, AnySize.read(config, where), where)
    tiling = (Whole if _is_gemma(checkpoint) else Tiling).read(config, where)
    plan, shaped = describe_vision(checkpoint, tiling.tile)
    if rows not in (None, plan.rows):
        raise CheckpointError(
            f"{where}: an image has {rows} tokens, and the model makes {plan.rows} of a tile."
        )
    return tiling, plan, shaped


def _read_any_size(
    checkpoint: Checkpoint, shown: AnySize | Filling, where: str
) -> tuple[Cutting, AnySizePlan, Checkpoint]:
    plan, shaped = describe_any_size(checkpoint, shown.rows)
    if (shown.patch, shown.side, shown.frames) != (plan.patch, plan.side, plan.frames):
        raise CheckpointError(
            f"{where}: patches of {shown.patch} pixels, {shown.side} a side to a row and {shown.frames} "
            f"frames are shown, and the model takes {plan.patch}, {plan.side} and {plan.frames}."
        )
    return shown, plan, shaped


def _is_gemma(checkpoint: Checkpoint) -> bool:
    return checkpoint.architecture == "gemma3"


def _weight_format(options: EngineOptions) -> str:
    return "f32" if options.quantization == "f32" else "q8"
