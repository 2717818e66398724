"""Pictures of any size to rows of a decoder's width (Qwen-VL), over two C++ plans."""

from __future__ import annotations

import numpy as np

from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import RequestCancelled
from llm_serving.images.pixels import Grid
from llm_serving.native.vision import Stage
from llm_serving.native.vision_plan import AnySizePlan


class AnySizeVision:
    """As `NativeVision`, over whole pictures.

    Raises: CheckpointError when the checkpoint does not fit the plan.
    """

    def __init__(
        self,
        plan: AnySizePlan,
        checkpoint: Checkpoint,
        *,
        threads: int = 1,
        isa: str = "auto",
        weight_format: str = "f32",
    ) -> None:
        self.plan = plan
        self._tower = Stage(plan.tower, checkpoint, plan.num_patches, threads, isa, weight_format)
        self._connector = Stage(plan.connector, checkpoint, plan.rows, threads, isa, weight_format)
        self.weight_bytes = self._tower.weight_bytes + self._connector.weight_bytes

    def shape(self, grid: Grid) -> tuple[int, int]:
        """See `TileEncoder.shape`."""
        unit = self.plan.patch * self.plan.side
        return grid.height // unit, grid.width // unit

    def encode(self, tile: np.ndarray) -> np.ndarray:
        """float32 [height, width, 3], normalised pixels → float32 [rows, width of a row], row by row.

        Raises: RequestCancelled after `interrupt`.
        """
        order, ends = window_order(*self._sides(tile), self.plan.window)
        hidden = self._look(tile, order, ends)
        if self._tower.is_interrupted:
            raise RequestCancelled()
        rows = np.empty((len(order), self.plan.width), np.float32)
        rows[order] = self._connector.run(hidden.reshape(len(order), -1))
        return rows

    def look(self, tile: np.ndarray) -> np.ndarray:
        """float32 [patches, hidden] of the tower alone: those of a row together, rows window by window.

        Valid until the next call.
        """
        return self._look(tile, *window_order(*self._sides(tile), self.plan.window))

    def _look(self, tile: np.ndarray, order: np.ndarray, ends: np.ndarray) -> np.ndarray:
        plan = self.plan
        rows, columns = self._sides(tile)
        side, patch = plan.side, plan.patch
        squares = tile.reshape(rows, side, patch, columns, side, patch, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        squares = squares.reshape(rows * columns, side * side, 3, 1, patch * patch)[order]
        patches = np.zeros((len(order) * side * side, plan.columns), np.float32)
        shown = patches[:, : 3 * plan.frames * patch * patch]
        shown[:] = np.broadcast_to(squares, (len(order), side * side, 3, plan.frames, patch * patch)).reshape(
            shown.shape
        )
        starts = np.concatenate([[0], ends * side * side]).astype(np.int32)
        return self._tower.run(patches, starts=starts, rotary=patch_places(order, columns, side))

    def _sides(self, tile: np.ndarray) -> tuple[int, int]:
        unit = self.plan.patch * self.plan.side
        return tile.shape[0] // unit, tile.shape[1] // unit

    def interrupt(self) -> None:
        """Have `encode` give up, within a tile's time of a kernel, until `resume`. Of any thread."""
        self._tower.is_interrupted = True

    def resume(self) -> None:
        self._tower.is_interrupted = False

    def close(self) -> None:
        """Drop the plans: their threads end and their memory goes back."""
        self._tower.close()
        self._connector.close()


def window_order(rows: int, columns: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Which place of a grid comes when, window by window, and where each window ends: two of int64.

    Windows are squares of so many places a side, less where the grid ends; 0 stands for one window.
    """
    numbers = np.arange(rows * columns).reshape(rows, columns)
    step = window or max(rows, columns)
    parts = [
        numbers[row : row + step, column : column + step].reshape(-1)
        for row in range(0, rows, step)
        for column in range(0, columns, step)
    ]
    return np.concatenate(parts), np.cumsum([len(part) for part in parts])


def patch_places(order: np.ndarray, columns: int, side: int) -> np.ndarray:
    """int32 [patches, 3]: moment, row and column of the patches of each place of a grid, in this order."""
    inside = np.arange(side * side)
    down = order[:, None] // columns * side + inside // side
    across = order[:, None] % columns * side + inside % side
    places = np.stack([np.zeros_like(down), down, across], axis=-1)
    return np.ascontiguousarray(places.reshape(-1, 3), dtype=np.int32)
