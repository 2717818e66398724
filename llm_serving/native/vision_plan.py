"""What turns a picture's tiles into rows for a decoder, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import AddPositions, EncoderPlan, Gated, Gelu, Linear, Quantize

# Bytes that a weight takes, scales counted in; of what is `fine`, in any format but f32, those of q12.
_WEIGHT_BYTES = {"f32": 4.0, "q8": 1.0625}
_FINE_BYTES = 2.125
CONNECTED_ROWS = 256
_MOST_HEAD = 128  # dimensions that attention lays out at a time: those of a head


@dataclass(frozen=True, slots=True)
class VisionPlan:
    """A vision transformer over square tiles, then a projection of some neighbouring patches to one row.

    Of both plans the first operation is `Given`, and what comes out is the buffer "x".
    """

    tower: EncoderPlan  # a row a patch; its context is the number of learned positions
    connector: EncoderPlan  # a row for side x side patches
    tile: int  # pixels a side
    patch: int  # pixels a side
    side: int  # patches a side that become one row
    columns: int  # of the patch matrix: 3 * patch * patch, and zeros up to a multiple of 32
    # Whether these patches stand side by side in their row (pixel shuffle, Shi et al. 2016), or are averaged.
    shuffles: bool = True
    # Whether a patch has the position of where it lies in its tile (see `position_ids`), or of its number.
    by_place: bool = True

    @property
    def patches(self) -> int:
        """A side."""
        return self.tile // self.patch

    @property
    def rows(self) -> int:
        """That a tile becomes."""
        return (self.patches // self.side) ** 2

    @property
    def num_patches(self) -> int:
        """Of a tile."""
        return self.patches**2

    @property
    def stages(self) -> tuple[tuple[EncoderPlan, int], ...]:
        """Each plan, and rows it computes at once."""
        return (self.tower, self.num_patches), (self.connector, self.rows)

    @property
    def width(self) -> int:
        return self.connector.hidden


@dataclass(frozen=True, slots=True)
class AnySizePlan:
    """The same over pictures whose sides are any multiples of `patch` * `side` pixels.

    Patches are ordered by the row that they become, and rows by windows, whose patches are the sequences of a
    step of the tower. Rotary positions are a patch's row and column (`axial_rope`). What comes out of the
    tower has columns for each of the connectors, whose rows stand one behind the other.
    """

    tower: EncoderPlan  # its context is the number of patches, at most
    connectors: tuple[EncoderPlan, ...]
    rows: int  # that a picture becomes, at most
    patch: int  # pixels a side
    side: int  # patches a side that become one row, side by side
    frames: int  # of a film that a patch goes through: a picture is all of them
    columns: int  # of the patch matrix: 3 * frames * patch * patch, and zeros up to a multiple of 32
    window: int = 0  # rows a side; 0 = the picture is one
    # A tensor of learned positions: a square of them, stretched to a picture's patches, or a list for columns
    # and one for rows. What is given to the tower has them behind the columns of the patch.
    positions: str | None = None
    # Patches that become one row are averaged and scaled by the root of their width, not put side by side;
    # then `standard`, if there is one, names what is subtracted, and multiplied with after that.
    averages: bool = False
    standard: tuple[str, str] | None = None
    channels_last: bool = False  # of a patch's columns: the colours of a pixel stand together

    @property
    def num_patches(self) -> int:
        """Of a picture, at most."""
        return self.rows * self.side**2

    @property
    def stages(self) -> tuple[tuple[EncoderPlan, int], ...]:
        """Each plan, and rows it computes at once; connectors take few, whose buffers are wide."""
        few = min(self.rows, CONNECTED_ROWS)
        return (self.tower, self.num_patches), *((connector, few) for connector in self.connectors)

    @property
    def width(self) -> int:
        return sum(connector.hidden for connector in self.connectors)


@dataclass(frozen=True, slots=True)
class VisionNeed:
    """What a model's eyes take of the memory."""

    num_bytes: int
    tensors: frozenset[str]  # whose weights these are, and of no other part of the model


def vision_need(
    plan: VisionPlan | AnySizePlan, checkpoint: Checkpoint, weight_format: str, threads: int
) -> VisionNeed:
    """Weights, buffers for all patches of a tile, and what each thread's attention lays out for itself."""
    num_bytes, tensors = 0.0, set()
    for stage, rows in plan.stages:
        cols = 0
        for operation in stage.operations:
            if isinstance(operation, Linear):
                for projection in operation.projections:
                    size = math.prod(checkpoint.tensor(projection.tensor).shape)
                    is_fine = projection.fine and weight_format != "f32"
                    num_bytes += size * (_FINE_BYTES if is_fine else _WEIGHT_BYTES[weight_format])
                    tensors.add(projection.tensor)
            elif isinstance(operation, AddPositions) and operation.tensor:
                num_bytes += 4 * operation.context * stage.hidden
                tensors.add(operation.tensor)
            elif isinstance(operation, Quantize | Gelu):
                cols = max(cols, stage.buffers[operation.source])
            elif isinstance(operation, Gated):
                cols = max(cols, operation.cols)
        activations = 4 * cols if weight_format == "f32" else 2 * cols + cols // 8
        num_bytes += rows * (4 * sum(stage.buffers.values()) + activations)
    head = plan.tower.buffers["qkv"] // 3  # of keys and values, at most
    num_bytes += threads * 2 * 4 * plan.num_patches * min(head, _MOST_HEAD)
    num_bytes += 4 * plan.num_patches * plan.columns  # the tile, as patches
    if isinstance(plan, AnySizePlan) and plan.positions is not None:
        table = checkpoint.tensor(plan.positions).shape
        kept = math.prod(table) if len(table) == 2 else 2 * plan.rows * plan.side * table[-1]
        num_bytes += 4 * (kept + plan.num_patches * table[-1])
        tensors.add(plan.positions)
    return VisionNeed(int(num_bytes), frozenset(tensors))


def position_ids(patches: int, side: int) -> np.ndarray:
    """int32 [patches * patches]: which of side x side learned positions each patch has, row by row.

    By where it lies in its tile, as a fraction, rounded down to a position (Laurençon et al. 2024). In
    float32, as models were trained: in some sizes a fraction falls just short of its own position.
    """
    step = np.float32(1) / np.float32(patches)
    fractions = np.minimum(np.arange(patches, dtype=np.float32) * step, np.float32(1 - 1e-6))
    boundaries = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)
    along = np.searchsorted(boundaries, fractions, side="right")
    ids: np.ndarray = along[:, None] * side + along[None, :]
    return ids.reshape(-1).astype(np.int32)
