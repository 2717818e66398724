"""Pictures in their own shape: which size they are shown in, and within which bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_serving.errors import CheckpointError
from llm_serving.images.any_size import MOST_ROWS, AnySize
from llm_serving.images.expansion import PADS
from llm_serving.images.pixels import Grid

CONFIG: dict[str, Any] = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def read(**changes: Any) -> AnySize:
    return AnySize.read({**CONFIG, **changes}, "preprocessor_config.json")


def rows_of(shown: AnySize, width: int, height: int) -> int:
    grid = shown.grid(width, height)
    assert (grid.width % 28, grid.height % 28) == (0, 0)
    return grid.width // 28 * grid.height // 28


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((640, 480), (644, 476)),
        ((28, 28), (56, 56)),
        ((1, 1), (56, 56)),
        ((4000, 20), (4004, 28)),
        ((1920, 1080), (1316, 728)),
        ((200, 1), (812, 28)),
    ],
)
def test_sizes(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert read().grid(*size) == Grid(*shown, 0, 0)
    assert read().grid(*size[::-1]) == Grid(*shown[::-1], 0, 0)


def test_our_own_bound_holds_whatever_a_model_says() -> None:
    assert read().rows == MOST_ROWS
    assert read(max_pixels=100 * 784).rows == 100
    assert 0.9 * MOST_ROWS < rows_of(read(), 8000, 4000) <= MOST_ROWS


@pytest.mark.parametrize("most", [4, 40, 256, 1280])
def test_no_picture_is_above_the_bound(most: int) -> None:
    shown = read(max_pixels=most * 784)
    for longer in (1, 7, 100, 1999, 30_000):
        for times in (1, 3, 40, 200):
            shorter = max(1, -(-longer // times))
            assert rows_of(shown, longer, shorter) <= most
            assert rows_of(shown, shorter, longer) <= most


def test_low_is_a_lower_bound_and_no_other_shape() -> None:
    low = read().low
    assert 200 < rows_of(low, 1600, 1200) <= 256
    assert low.grid(100, 80) == read().grid(100, 80)
    few = read(max_pixels=100 * 784)
    assert few.low is few
    assert read(min_pixels=500 * 784).low.least == 256 * 784


@pytest.mark.parametrize("size", [(201, 1), (1, 201), (30_000, 100)])
def test_far_too_long_ones_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="200 times as long"):
        read().grid(*size)


def test_bounds_by_either_name_and_by_none() -> None:
    size = {"shortest_edge": 65536, "longest_edge": 1 << 20}
    newer = read(min_pixels=None, max_pixels=None, size=size, patch_size=16)
    assert (newer.least, newer.most, newer.rows) == (65536, 1 << 20, 1024)
    assert read(size=size).least == 3136
    bare = AnySize.read({}, "x")
    assert (bare.patch, bare.side, bare.frames, bare.rows, bare.least) == (14, 2, 2, MOST_ROWS, 3136)
    assert (bare.mean[0], bare.deviation[2], bare.resample) == (0.48145466, 0.27577711, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_pixels": "few"}, "'min_pixels' is few"),
        ({"max_pixels": -1}, "'max_pixels' is -1"),
        ({"patch_size": True}, "'patch_size' is True"),
        ({"max_pixels": 783}, "cannot be shown"),
        ({"do_resize": False}, "'do_resize' is off"),
        ({"image_std": [1, 2]}, "3 numbers"),
    ],
)
def test_what_is_not_done_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(**changes)


def test_pixels_and_the_text_that_stands_for_them() -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs the extra: pip install 'llm-serving[images]'")
    tiles, grid = read().cut(pil.new("RGB", (90, 60), (255, 0, 0)))
    assert (tiles.shape, grid, grid.tiles) == ((1, 56, 84, 3), Grid(84, 56, 0, 0), 1)
    assert (tiles == np.array([255, 0, 0])).all()
    assert PADS.expansion(grid, 6) == "<|image_pad|>" * 6
