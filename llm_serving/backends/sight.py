"""How a model sees: what cuts pictures into tiles, and what makes rows for the engine of each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from llm_serving.architectures import VISION_FAMILIES, describe_vision
from llm_serving.checkpoints import Checkpoint, read_image_processor
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError
from llm_serving.images.tiling import Tiling
from llm_serving.native.cpu import cpu_budget

logger = logging.getLogger(__name__)


class TileEncoder(Protocol):
    """One thread at a time calls it."""

    rows: int  # that a tile becomes

    def encode(self, tile: np.ndarray) -> np.ndarray:
        """float32 [side, side, 3], normalised → float32 [rows, hidden], depending on nothing else."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Sight:
    """Of one model."""

    tiling: Tiling
    encoder: TileEncoder


def load_sight(checkpoint: Checkpoint, options: EngineOptions) -> Sight | None:
    """What the native engine's model sees with; None if it only reads. Blocking.

    Weights are 8-bit, with 16-bit activations, unless --quantization says f32.
    Raises: CheckpointError when its parts do not fit each other.
    """
    if checkpoint.architecture not in VISION_FAMILIES:
        return None
    from llm_serving.native.vision import NativeVision

    directory = Path(checkpoint.path)
    found = read_image_processor(directory)
    if found is None:
        logger.warning("%s: has no preprocessor_config.json, so it reads no images", directory)
        return None
    config, where, rows = found
    tiling = Tiling.read(config, where)
    plan, shaped = describe_vision(checkpoint, tiling.tile)
    if rows not in (None, plan.rows):
        raise CheckpointError(
            f"{where}: an image has {rows} tokens, and the model makes {plan.rows} of a tile."
        )
    encoder = NativeVision(
        plan,
        shaped,
        threads=options.threads or cpu_budget().threads,
        weight_format="f32" if options.quantization == "f32" else "q8",
    )
    return Sight(tiling, encoder)
