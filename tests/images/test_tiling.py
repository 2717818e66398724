"""How pictures are cut, and the text that stands for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_serving.errors import CheckpointError
from llm_serving.images.expansion import SOFT_TOKENS, TILES
from llm_serving.images.pixels import Grid
from llm_serving.images.tiling import Tiling
from llm_serving.images.whole import Whole

CONFIG: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_image_splitting": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.25, 0.125],
    "image_std": [0.5, 1.0, 2.0],
    "max_image_size": {"longest_edge": 512},
    "resample": 1,
    "rescale_factor": 1 / 255,
    "size": {"longest_edge": 2048},
}


def read(**changes: Any) -> Tiling:
    return Tiling.read({**CONFIG, **changes}, "preprocessor_config.json")


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((100, 100), 4, 4),
        ((1, 1), 4, 4),
        ((400, 300), 3, 4),
        ((300, 401), 4, 3),
        ((30_000, 1), 1, 4),
        ((1, 30_000), 4, 1),
    ],
)
def test_grids(size: tuple[int, int], rows: int, columns: int) -> None:
    grid = read().grid(*size)
    assert (grid.rows, grid.columns) == (rows, columns)
    assert (grid.width, grid.height) == (512 * columns, 512 * rows)
    assert grid.tiles == rows * columns + 1


def test_small_ones_are_not_cut() -> None:
    assert read(size={"longest_edge": 512}).grid(300, 200) == Grid(512, 512, 0, 0)
    assert read(do_image_splitting=False).grid(3000, 200) == Grid(512, 512, 0, 0)


def test_tiles_are_row_by_row_and_then_the_whole() -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs the extra: pip install 'llm-serving[images]'")
    tiling = read(size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, resample=0)
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[..., 0] = np.arange(64)[:, None] // 32
    pixels[..., 1] = np.arange(96)[None] // 32
    tiles, grid = tiling.cut(pil.fromarray(pixels))
    assert (tiles.shape, grid.rows, grid.columns) == ((7, 32, 32, 3), 2, 3)
    assert [tile[5, 5, :2].tolist() for tile in tiles[:-1]] == [[r, c] for r in range(2) for c in range(3)]
    assert tiles[-1].reshape(-1, 3).max(axis=0).tolist() == [1, 2, 0]


def test_normalized() -> None:
    tile = np.array([[[0, 0, 0], [255, 51, 102]]], np.uint8)
    expected = [[[-1, -0.25, -0.0625], [1, -0.05, 0.1375]]]
    np.testing.assert_allclose(read().normalized(tile), expected, rtol=1e-6)
    assert read().normalized(tile).dtype == np.float32


@pytest.mark.parametrize(
    "changes",
    [
        {"do_resize": False},
        {"do_normalize": None},
        {"do_image_splitting": 1},
        {"resample": 9},
        {"resample": "lanczos"},
        {"size": {"height": 5, "width": 5}},
        {"size": {"longest_edge": 5000}},
        {"size": 512},
        {"max_image_size": None},
        {"max_image_size": {"longest_edge": 0}},
        {"max_image_size": {"longest_edge": 16}},
        {"image_mean": [0.5, 0.5]},
        {"image_mean": ["a", "b", "c"]},
        {"image_std": [0.5, 0.5, 0]},
        {"rescale_factor": float("nan")},
    ],
)
def test_what_is_not_done_here(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: "):
        read(**changes)


WHOLE: dict[str, Any] = {"size": {"height": 32, "width": 32}, "do_convert_rgb": None, "resample": 0}


def test_a_picture_as_one_tile() -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs the extra: pip install 'llm-serving[images]'")
    whole = Whole.read(WHOLE, "preprocessor_config.json")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32] = 9
    tiles, grid = whole.cut(pil.fromarray(pixels))
    assert (tiles.shape, grid, grid.tiles) == ((1, 32, 32, 3), Grid(32, 32, 0, 0), 1)
    assert tiles[0, :, 5, 0].tolist() == [9] * 16 + [0] * 16
    assert whole.low is whole
    assert read().low.splits is False


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"height": 32, "width": 16}},
        {"size": {"longest_edge": 32}},
        {"size": {"height": 5000, "width": 5000}},
        {"do_pan_and_scan": True},
        {"do_convert_rgb": False},
        {"do_resize": None},
        {"image_mean": [0.5]},
    ],
)
def test_what_is_not_done_to_the_whole(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: "):
        Whole.read({**WHOLE, **changes}, "preprocessor_config.json")


def test_expansions() -> None:
    assert SOFT_TOKENS.expansion(Grid(32, 32, 0, 0), 2) == (
        "\n\n<start_of_image><image_soft_token><image_soft_token><end_of_image>\n\n"
    )
    assert TILES.expansion(Grid(0, 0, 0, 0), 2) == (
        "<fake_token_around_image><global-img><image><image><fake_token_around_image>"
    )
    assert TILES.expansion(Grid(0, 0, 2, 1), 1) == (
        "<fake_token_around_image><row_1_col_1><image>\n<fake_token_around_image><row_2_col_1><image>\n"
        "\n<fake_token_around_image><global-img><image><fake_token_around_image>"
    )
