"""A scripted model that sees: of a tile it makes four rows, of the colours of its quarters."""

from __future__ import annotations

import numpy as np

from llm_serving.backends.fake import FIRST_SPECIAL as FIRST
from llm_serving.backends.fake import GIVEN_WIDTH, NAMES, FakeTokenizer, load_fake_engine
from llm_serving.backends.sight import Sight
from llm_serving.config import Settings
from llm_serving.images.expansion import IMAGE
from llm_serving.images.pixels import Grid
from llm_serving.images.tiling import Tiling
from llm_serving.service.loader import engine_options
from llm_serving.service.model import ChatModel
from llm_serving.service.vision import Limits, Vision

TILE, ROWS = 16, 4
IMAGE_ID = FIRST + NAMES.index(IMAGE)
TILING = Tiling(
    longest=64, tile=TILE, splits=True, resample=1, scale=1 / 255, mean=(0.5,) * 3, deviation=(0.5,) * 3
)


class FakeEyes:
    """Counts the tiles it is shown."""

    def __init__(self) -> None:
        self.num_tiles = 0
        self.is_closed = False
        self.is_interrupted = False

    def shape(self, _: Grid) -> tuple[int, int]:
        return 2, ROWS // 2

    def encode(self, tile: np.ndarray) -> np.ndarray:
        self.num_tiles += 1
        half = TILE // 2
        rows = np.zeros((ROWS, GIVEN_WIDTH), np.float32)
        rows[:, :3] = tile.reshape(2, half, 2, half, 3).mean(axis=(1, 3)).reshape(ROWS, 3)
        return rows

    def interrupt(self) -> None:
        self.is_interrupted = True

    def resume(self) -> None:
        self.is_interrupted = False

    def close(self) -> None:
        self.is_closed = True


def seeing_model(settings: Settings, eyes: FakeEyes | None = None) -> ChatModel:
    """As `create_app` loads it."""
    limits = Limits(settings.max_images, settings.max_image_pixels, settings.max_queue)
    vision = Vision(Sight(TILING, eyes or FakeEyes()), IMAGE_ID, limits)
    engine = load_fake_engine(engine_options(settings), reply="I see.")
    return ChatModel("seer", engine, FakeTokenizer(), created=1, vision=vision)
