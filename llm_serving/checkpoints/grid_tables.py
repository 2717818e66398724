"""ggml's grids: the groups of eight or four numbers that IQ1, IQ2 and IQ3 choose from.

They were found by search, so nothing derives them. The package `gguf`, by the format's authors, has them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_serving.checkpoints.code_tables import GRID_2, GRID_3_S, GRID_3_XXS
from llm_serving.errors import CheckpointError

Words = NDArray[np.uint64]

_SIZES = {
    "IQ1_S": (2048, 8),
    "IQ2_XXS": (256, 8),
    "IQ2_XS": (512, 8),
    "IQ2_S": (1024, 8),
    "IQ3_XXS": (256, 4),
    "IQ3_S": (512, 4),
}


@cache
def grid_codes(kind: str) -> NDArray[Any]:
    """Of a kind other than IQ1, numbers of its grid's values in its table of `code_tables`.

    One word for each of its entries: uint64 of eight bytes or uint32 of four, [entries].

    Raises: CheckpointError if the package is not there, or has something else.
    """
    table = {"IQ3_XXS": GRID_3_XXS, "IQ3_S": GRID_3_S}.get(kind, GRID_2)
    codes = _codes(_grid(kind), table)
    return codes.view("<u8" if codes.shape[1] == 8 else "<u4").reshape(-1)


@cache
def shifted_codes() -> Words:
    """Of IQ1, eight times its grid raised by an eighth, and from 2048 on lowered by one: uint64 [4096].

    Raises: CheckpointError, as `grid_codes`.
    """
    grid = 8 * _grid("IQ1_S")
    return _codes(np.concatenate([grid + 1, grid - 1]), GRID_2).view("<u8").reshape(-1)


def _codes(values: NDArray[np.float32], table: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 [entries, numbers] of values whose magnitudes are in `table`."""
    codes: NDArray[np.uint8] = (np.abs(values)[:, :, None] == table[:8]).argmax(axis=-1).astype(np.uint8)
    return np.ascontiguousarray(codes | (values < 0) << np.uint8(3))


def _grid(kind: str) -> NDArray[np.float32]:
    """f32 [entries, numbers]."""
    try:
        from gguf import quants

        holder = getattr(quants, kind)
        holder.init_grid()
        grid = np.array(holder.grid, np.float32).reshape(_SIZES[kind])
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"Tensors of {kind} need the tables of the package 'gguf' ({error}). "
            "Install it with: pip install 'gguf>=0.17.1'"
        ) from error
    numbers: Any = {"IQ1_S": (-1, 0, 1), "IQ3_XXS": GRID_3_XXS[:8], "IQ3_S": GRID_3_S[:8]}.get(
        kind, (8, 25, 43)
    )
    if not np.isin(grid, numbers).all():
        raise CheckpointError(f"The package 'gguf' has other numbers for {kind} than its format.")
    return grid
