"""Pictures in their own shape, as large as a number of places allows."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("PIL", reason="needs the extra: pip install 'llm-serving[images]'")

from pictures import picture

from llm_serving.errors import CheckpointError
from llm_serving.images.filling import Filling

UNIT = 48


def rows_and_columns(shown: Filling, width: int, height: int) -> tuple[int, int]:
    grid = shown.grid(width, height)
    assert grid.height % UNIT == grid.width % UNIT == 0
    return grid.height // UNIT, grid.width // UNIT


def test_small_pictures_grow_and_large_ones_shrink() -> None:
    shown = Filling.read({}, "here", 280)
    assert shown.rows == 280
    for scale in (1, 30, 3000):
        assert rows_and_columns(shown, scale, scale) == (16, 16)
        assert rows_and_columns(shown, 4 * scale, 3 * scale) == (14, 19)
    assert rows_and_columns(shown, 1, 9000) == (280, 1)
    assert rows_and_columns(shown, 500, 1) == (1, 280)
    assert rows_and_columns(shown.low, 40, 30) == (7, 9)


def test_what_is_shown() -> None:
    tiles, grid = Filling.read({"max_soft_tokens": 70}, "here", 280).cut(picture(40, 30))
    assert tiles.shape == (1, 7 * UNIT, 9 * UNIT, 3)
    assert (grid.height, grid.width, grid.tiles) == (7 * UNIT, 9 * UNIT, 1)


def test_a_bound_above_the_model_s() -> None:
    shown = Filling.read({"max_soft_tokens": 1120}, "here", 280)
    assert shown.rows == 280
    assert Filling.read({"max_soft_tokens": 50}, "here", 280).low.rows == 50


@pytest.mark.parametrize(
    "config", [{"patch_size": 0}, {"pooling_kernel_size": True}, {"max_soft_tokens": "280"}, {"resample": 9}]
)
def test_what_cannot_be_shown_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(config))):
        Filling.read(config, "here", 280)
