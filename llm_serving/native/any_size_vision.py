"""Pictures of any size to rows of a decoder's width (Qwen-VL), over two C++ plans."""

from __future__ import annotations

from math import isqrt

import numpy as np

from llm_serving.checkpoints import Checkpoint, Tensor, dequantize
from llm_serving.errors import CheckpointError, RequestCancelled
from llm_serving.images.pixels import Grid
from llm_serving.native.vision import Stage
from llm_serving.native.vision_plan import CONNECTED_ROWS, AnySizePlan


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
        self._connectors = [
            Stage(stage, checkpoint, rows, threads, isa, weight_format) for stage, rows in plan.stages[1:]
        ]
        self._table = positions_of(plan, checkpoint)
        self._standard = [
            dequantize(checkpoint.tensor(name)).astype(np.float32) for name in plan.standard or ()
        ]
        stages = [self._tower, *self._connectors]
        self.weight_bytes = sum(stage.weight_bytes for stage in stages)

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
        if self.plan.averages:
            hidden = averaged(hidden.reshape(len(order), self.plan.side**2, -1), self._standard)
        hidden = hidden.reshape(len(hidden), len(self._connectors), -1)
        rows = np.empty((len(order), self.plan.width), np.float32)
        for number, connector in enumerate(self._connectors):
            merged = np.ascontiguousarray(hidden[:, number]).reshape(len(order), -1)
            width = self.plan.connectors[number].hidden
            for first in range(0, len(order), CONNECTED_ROWS):
                some = slice(first, first + CONNECTED_ROWS)
                rows[order[some], number * width : (number + 1) * width] = connector.run(merged[some])
        return rows

    def look(self, tile: np.ndarray) -> np.ndarray:
        """float32 [patches, columns] of the tower alone: those of a row together, rows window by window.

        Valid until the next call.
        """
        return self._look(tile, *window_order(*self._sides(tile), self.plan.window))

    def _look(self, tile: np.ndarray, order: np.ndarray, ends: np.ndarray) -> np.ndarray:
        plan = self.plan
        rows, columns = self._sides(tile)
        side, patch = plan.side, plan.patch
        squares = tile.reshape(rows, side, patch, columns, side, patch, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        squares = squares.reshape(rows * columns, side * side, 3, 1, patch * patch)[order]
        if plan.channels_last:
            squares = squares.transpose(0, 1, 4, 3, 2)
        positions = 0 if self._table is None else self._table.shape[2]
        patches = np.zeros((len(order) * side * side, plan.columns + positions), np.float32)
        shown = patches[:, : 3 * plan.frames * patch * patch]
        frames = (*squares.shape[:3], plan.frames, squares.shape[4])
        shown[:] = np.broadcast_to(squares, frames).reshape(shown.shape)
        places = patch_places(order, columns, side)
        if self._table is not None and plan.averages:
            patches[:, plan.columns :] = self._table[0, places[:, 2]] + self._table[1, places[:, 1]]
        elif self._table is not None:
            table = stretched(self._table, rows * side, columns * side)
            patches[:, plan.columns :] = table[places[:, 1], places[:, 2]]
        starts = np.concatenate([[0], ends * side * side]).astype(np.int32)
        return self._tower.run(patches, starts=starts, rotary=places)

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
        for stage in (self._tower, *self._connectors):
            stage.close()


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


def positions_of(plan: AnySizePlan, checkpoint: Checkpoint) -> np.ndarray | None:
    """Learned positions as float32: those of `square_of`, or [2, places, hidden] of columns and of rows."""
    if plan.positions is None:
        return None
    tensor = checkpoint.tensor(plan.positions)
    if len(tensor.shape) != 3:
        return square_of(tensor)
    tables: np.ndarray = np.array(dequantize(tensor)[:, : plan.rows * plan.side], np.float32)
    return tables


def averaged(patches: np.ndarray, standard: list[np.ndarray]) -> np.ndarray:
    """float32 [rows, patches, hidden] → [rows, hidden]: as `AnySizePlan.averages` has it."""
    total = np.zeros((patches.shape[0], patches.shape[2]), np.float32)
    for index in range(patches.shape[1]):
        total += patches[:, index]
    total *= np.float32(patches.shape[2] ** 0.5 / patches.shape[1])
    return (total - standard[0]) * standard[1] if standard else total


def square_of(tensor: Tensor) -> np.ndarray:
    """Learned positions as float32 [side, side, hidden]. Raises: CheckpointError for no square of them."""
    side = isqrt(tensor.shape[0]) if len(tensor.shape) == 2 else 0
    if not side or side * side != tensor.shape[0]:
        raise CheckpointError(f"Tensor '{tensor.name}' of shape {tensor.shape} is no square of positions.")
    table: np.ndarray = dequantize(tensor).reshape(side, side, tensor.shape[1])
    return table


def stretched(table: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 [side, side, hidden] → [height, width, hidden]: corners stay, and all between is linear."""
    for axis, size in enumerate((height, width)):
        last = np.float32(table.shape[axis] - 1)
        at = np.arange(size, dtype=np.float32) * last / np.float32(max(size - 1, 1))
        below = np.floor(at)
        share = np.expand_dims(at - below, (1, 2) if axis == 0 else (0, 2))
        first, second = (
            table.take(np.minimum(below + step, last).astype(np.int64), axis=axis) for step in (0, 1)
        )
        table = first * (1 - share) + second * share
    return table
