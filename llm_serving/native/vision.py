"""Tiles of pictures to rows of a decoder's width, over two C++ plans."""

from __future__ import annotations

import numpy as np

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import RequestCancelled
from llm_serving.images.pixels import Grid
from llm_serving.native import ops
from llm_serving.native.core import load_core
from llm_serving.native.plan import PlanBuilder, core_plan
from llm_serving.native.vision_plan import VisionPlan, position_ids


class NativeVision:
    """Owns weights and threads. One thread at a time calls it; a tile's rows do not depend on any other.

    Steps take turns with those of chat, as an encoder's do.

    Raises: CheckpointError when the checkpoint does not fit the plan.
    """

    def __init__(
        self,
        plan: VisionPlan,
        checkpoint: Checkpoint,
        *,
        threads: int = 1,
        isa: str = "auto",
        weight_format: str = "f32",
    ) -> None:
        self.plan = plan
        num_patches = plan.patches**2
        self._tower = Stage(plan.tower, checkpoint, num_patches, threads, isa, weight_format)
        self._connector = Stage(plan.connector, checkpoint, plan.rows, threads, isa, weight_format)
        side = round(plan.tower.context**0.5)
        self._positions = position_ids(plan.patches, side) if plan.by_place else None
        self._patches = np.zeros((num_patches, plan.columns), np.float32)
        self.weight_bytes = self._tower.weight_bytes + self._connector.weight_bytes

    def shape(self, _: Grid) -> tuple[int, int]:
        """See `TileEncoder.shape`."""
        side = self.plan.patches // self.plan.side
        return side, side

    def encode(self, tile: np.ndarray) -> np.ndarray:
        """float32 [tile, tile, 3], normalised pixels → float32 [rows, width].

        Raises: RequestCancelled after `interrupt`.
        """
        hidden = self.look(tile)
        if self._tower.is_interrupted:
            raise RequestCancelled()
        merged = (shuffled if self.plan.shuffles else averaged)(hidden, self.plan)
        rows: np.ndarray = self._connector.run(merged).copy()
        return rows

    def look(self, tile: np.ndarray) -> np.ndarray:
        """float32 [patches², hidden] of the tower alone, valid until the next call."""
        side, patch = self.plan.patches, self.plan.patch
        tile = tile[: side * patch, : side * patch]  # a convolution leaves out what no patch fills
        cut = tile.reshape(side, patch, side, patch, 3).transpose(0, 2, 4, 1, 3)
        self._patches[:, : 3 * patch * patch] = cut.reshape(side * side, -1)
        return self._tower.run(self._patches, self._positions)

    def interrupt(self) -> None:
        """Have `encode` give up, within a tile's time of a kernel, until `resume`. Of any thread."""
        self._tower.is_interrupted = True

    def resume(self) -> None:
        self._tower.is_interrupted = False

    def close(self) -> None:
        """Drop the plans: their threads end and their memory goes back."""
        self._tower.close()
        self._connector.close()


def averaged(hidden: np.ndarray, plan: VisionPlan) -> np.ndarray:
    """float32 [patches², hidden] → [rows, hidden]: the mean of neighbours, added row by row everywhere."""
    by, side = plan.side, plan.patches // plan.side
    squares = hidden.reshape(side, by, side, by, -1)
    total = np.zeros((side, side, squares.shape[-1]), np.float32)
    for row in range(by):
        for column in range(by):
            total += squares[:, row, :, column]
    means: np.ndarray = (total / np.float32(by * by)).reshape(side * side, -1)
    return means


def shuffled(hidden: np.ndarray, plan: VisionPlan) -> np.ndarray:
    """float32 [patches², hidden] → [rows, side² * hidden]: neighbours side by side, row by row."""
    by, side = plan.side, plan.patches // plan.side
    squares = hidden.reshape(side, by, side, by, -1).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(squares).reshape(side * side, -1)


class Stage:
    """One plan whose rows are all given, up to so many at once. They are many: tiles of bfloat16 pay."""

    def __init__(
        self,
        plan: ops.EncoderPlan,
        checkpoint: Checkpoint,
        rows: int,
        threads: int,
        isa: str,
        weight_format: str,
    ) -> None:
        if isa == "auto" and weight_format != "f32":
            isa = load_core().tile_set() or isa
        self._core = core_plan(
            threads=threads, isa=isa, max_tokens=rows, max_context=plan.context, is_encoder=True
        )
        PlanBuilder(plan, checkpoint, self._core, weight_format, plan.context).build()
        self.weight_bytes: int = self._core.weight_bytes
        self._numbers = np.arange(rows, dtype=np.int32)

    def run(
        self,
        given: np.ndarray,
        positions: np.ndarray | None = None,
        starts: np.ndarray | None = None,
        rotary: np.ndarray | None = None,
    ) -> np.ndarray:
        """float32 [rows, width of what is given] → [rows, hidden], valid until the next call.

        Positions are the rows' numbers, unless others are told, and all rows one sequence. Else sequences
        begin and end at `starts`, int32 [sequences + 1]. `rotary` is as in `Step`.
        """
        numbers = self._numbers[: len(given)]
        starts = np.array([0, len(given)], np.int32) if starts is None else starts
        tables, none = np.zeros((len(starts) - 1, 0), np.int32), numbers[:0]
        at = numbers if positions is None else positions
        hidden: np.ndarray = self._core.run(
            numbers, at, starts, tables, none, 0, given, numbers, rotary=rotary
        )
        return hidden

    @property
    def is_interrupted(self) -> bool:
        return bool(self._core.interrupted)

    @is_interrupted.setter
    def is_interrupted(self, value: bool) -> None:
        self._core.interrupted = value

    def close(self) -> None:
        self._core = None
