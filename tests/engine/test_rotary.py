"""Rotary positions of prompts with pictures: in three dimensions, however a prompt is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llm_serving.engine.admission import check_given
from llm_serving.engine.protocol import RunnerLimits
from llm_serving.engine.request import GivenRows
from llm_serving.engine.rotary import rotary_positions
from llm_serving.errors import InvalidRequest

LIMITS = RunnerLimits(
    vocab_size=100,
    block_size=16,
    num_blocks=8,
    max_step_tokens=64,
    max_sequences=4,
    max_context=128,
    given_width=8,
    given_axes=True,
)


def picture(start: int, grid: tuple[int, int] | None, count: int = 0) -> GivenRows:
    places = count or (grid[0] * grid[1] if grid else 1)
    return GivenRows(start, np.zeros((places, 8), np.float32), bytes(16), grid)


def test_texts_count_on_and_pictures_count_in_two_directions() -> None:
    found = rotary_positions([picture(2, (2, 3))], 0, 10).tolist()
    assert found[:2] == [[0] * 3, [1] * 3]
    assert found[2:8] == [[2, 2, 2], [2, 2, 3], [2, 2, 4], [2, 3, 2], [2, 3, 3], [2, 3, 4]]
    assert found[8:] == [[5] * 3, [6] * 3], "behind the longer side"


def test_pictures_of_one_row_or_place_save_nothing() -> None:
    found = rotary_positions([picture(1, (1, 4)), picture(6, (1, 1))], 0, 9)
    assert found[5:].tolist() == [[i] * 3 for i in range(5, 9)]
    assert found[1:5].tolist() == [[1, 1, 1 + i] for i in range(4)]


@pytest.mark.parametrize("given", [[], [picture(0, (3, 3))], [picture(3, (2, 5)), picture(14, (4, 2))]])
def test_any_piece_is_that_of_the_whole(given: list[GivenRows]) -> None:
    whole = rotary_positions(given, 0, 40)
    assert whole.dtype == np.int32
    assert (whole.max(axis=1) <= np.arange(40)).all(), "no table is longer than a context"
    for first in range(40):
        for count in (1, 2, 7, 40 - first):
            piece = rotary_positions(given, first, min(count, 40 - first))
            assert (piece == whole[first : first + count]).all()


@pytest.mark.parametrize("grid", [None, (2, 2), (1, 5)])
def test_rows_without_their_grid_are_refused(grid: tuple[int, int] | None) -> None:
    rows = picture(1, grid, count=6)
    with pytest.raises(InvalidRequest, match="do not fit"):
        check_given([rows], 10, LIMITS)
    with pytest.raises(InvalidRequest, match="do not fit"):
        check_given([replace(rows, grid=(2, 3))], 10, replace(LIMITS, given_axes=False))
    check_given([replace(rows, grid=(2, 3))], 10, LIMITS)
