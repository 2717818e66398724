"""Rotary positions in time, height and width (M-RoPE, Wang et al. 2024), from a prompt's pictures alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_serving.engine.request import GivenRows


def rotary_positions(given: Sequence[GivenRows], first: int, count: int) -> np.ndarray:
    """int32 [count, 3] of the tokens from `first` on, whatever was computed before.

    Texts count on in all three. A picture is one moment: each of its places adds its row and its column to
    where the picture begins. What follows begins behind the longer side, so no position is larger than the
    token's place in the sequence.
    """
    positions = np.repeat(np.arange(first, first + count, dtype=np.int32)[:, None], 3, axis=1)
    saved = 0  # by pictures before
    for each in given:
        if each.grid is None or each.start >= first + count:
            continue
        begin, end = max(each.start - first, 0), max(each.end - first, 0)
        if end:
            places = np.arange(first + begin, min(first + count, each.end), dtype=np.int32) - each.start
            columns = each.grid[1]
            offsets = np.stack([np.zeros_like(places), places // columns, places % columns], axis=1)
            positions[begin : begin + len(places)] = np.int32(each.start - saved) + offsets
        shorter = len(each.rows) - max(each.grid)
        positions[end:] -= np.int32(shorter)
        saved += shorter
    return positions
