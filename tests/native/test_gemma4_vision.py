"""Gemma 4's eyes: the same bits whoever computes a picture's rows, and in any step; files and directories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence, RunnerDriver
from tiny_gemma4_vl import (
    BOUNDS,
    HIDDEN,
    MOST_ROWS,
    PLACE,
    UNIT,
    VISION,
    text_file,
    write_gemma4_projector,
    write_tiny_gemma4_large_vl,
    write_tiny_gemma4_small_vl,
)

from llm_serving.architectures import describe, describe_any_size, projector_kind, sees, with_projector
from llm_serving.backends.native_backend import build_runner, memory_need
from llm_serving.backends.sight import load_sight, sight_need
from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError
from llm_serving.images.filling import Filling
from llm_serving.native.any_size_vision import AnySizeVision
from llm_serving.native.core import load_core

WRITERS: dict[str, Callable[..., Path]] = {
    "small": write_tiny_gemma4_small_vl,
    "large": write_tiny_gemma4_large_vl,
}
ROWS = 15
FIRST = 20
IDS = [*range(5, 25), *[PLACE] * ROWS, *range(30, 41)]
PLACES = np.arange(FIRST, FIRST + ROWS, dtype=np.int32)
GIVEN = np.random.default_rng(3).standard_normal((ROWS, HIDDEN)).astype(np.float32)


@pytest.fixture(scope="module", params=WRITERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(WRITERS[request.param](tmp_path_factory.mktemp("gemma4") / "d"))


def picture(grid: tuple[int, int], seed: int = 0) -> np.ndarray:
    shape = (grid[0] * UNIT, grid[1] * UNIT, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def rows_of(checkpoint: Checkpoint, grid: tuple[int, int] = (3, 5), **options: Any) -> np.ndarray:
    vision = AnySizeVision(*describe_any_size(checkpoint, MOST_ROWS), **options)
    rows = vision.encode(picture(grid))
    vision.close()
    return rows


def reach(count: int = len(IDS)) -> np.ndarray:
    """How many tokens each of the prompt's sees, where rows of a picture see each other."""
    seen = np.arange(1, count + 1, dtype=np.int32)
    seen[FIRST : FIRST + ROWS] = FIRST + ROWS
    return seen


@pytest.mark.parametrize("weight_format", ["f32", "q8"])
def test_rows_are_the_same_whoever_computes_them(checkpoint: Checkpoint, weight_format: str) -> None:
    assert sees(checkpoint)
    found = []
    for isa in load_core().instruction_sets():
        for threads in (1, 3):
            plan, shaped = describe_any_size(checkpoint, MOST_ROWS)
            vision = AnySizeVision(plan, shaped, threads=threads, isa=isa, weight_format=weight_format)
            rows = [vision.encode(picture(grid)) for grid in [(3, 5), (1, 1), (8, 5), (3, 5)]]
            assert [len(own) for own in rows] == [15, 1, 40, 15]
            assert (rows[0] == rows[3]).all(), "whatever it looked at before"
            found.append(np.concatenate(rows))
            vision.close()
    assert all((rows == found[0]).all() for rows in found)


@pytest.mark.parametrize("end", BOUNDS)
def test_bounds_matter(end: str, tmp_path: Path) -> None:
    plain = open_checkpoint(write_tiny_gemma4_small_vl(tmp_path / "d"))
    without = {name: each for name, each in plain.tensors.items() if not name.endswith(end)}
    changed = rows_of(replace(plain, tensors=without))
    assert np.isfinite(changed).all()
    assert np.abs(changed - rows_of(plain)).max() > 1e-3


@pytest.mark.parametrize("kv_cache", ["q16", "q8"])
def test_a_picture_in_any_step(checkpoint: Checkpoint, kv_cache: str) -> None:
    span = describe(checkpoint).given_span
    found = []
    for isa in load_core().instruction_sets():
        for threads in (1, 2):
            runner = build_runner(checkpoint, EngineOptions(threads=threads, kv_cache=kv_cache), isa=isa)
            driver, own = RunnerDriver(runner), {"seen": reach()} if span else {}
            whole = driver.step([(DrivenSequence(), IDS)], given=(GIVEN, PLACES), **own)
            sequence, parts = DrivenSequence(), []
            for first, end in ((0, 7), (7, FIRST), (FIRST, FIRST + ROWS), (FIRST + ROWS, len(IDS))):
                given = (GIVEN, PLACES - np.int32(first)) if first == FIRST else None
                cut = {"seen": reach()[first:end]} if span else {}
                parts.append(driver.step([(sequence, IDS[first:end])], given=given, **cut))
            assert (np.concatenate(parts) == whole).all()
            found.append(whole)
            runner.close()
    assert all((logits == found[0]).all() for logits in found)


def test_rows_look_ahead_in_layers_with_windows_alone(tmp_path: Path) -> None:
    """The last row's content reaches the first ones in layers with windows, and in no layer without."""
    large = open_checkpoint(write_tiny_gemma4_large_vl(tmp_path / "large"))
    ahead = [op.ahead for op in describe(large).operations if type(op).__name__ == "Attention"]
    assert ahead == [True, True, False, True, True, False]
    runner = build_runner(large, EngineOptions(threads=2))
    driver, other = RunnerDriver(runner), GIVEN.copy()
    other[-1] += 1
    one, two, straight = (
        driver.step([(DrivenSequence(), IDS)], given=(given, PLACES), **own)
        for given, own in ((GIVEN, {"seen": reach()}), (other, {"seen": reach()}), (other, {}))
    )
    assert (one[FIRST : FIRST + ROWS] != two[FIRST : FIRST + ROWS]).any(axis=1).all()
    assert (one[:FIRST] == two[:FIRST]).all()
    assert (straight[FIRST : FIRST + ROWS] != two[FIRST : FIRST + ROWS]).any(axis=1).sum() >= ROWS - 1
    runner.close()


def pair(folder: Path, directory: Path, kind: str = "F32", **changes: Any) -> Checkpoint:
    file = write_gemma4_projector(folder / f"mmproj-{kind}.gguf", directory, kind, **changes)
    return with_projector(open_checkpoint(text_file(directory)), open_checkpoint(file))


@pytest.mark.parametrize("name", WRITERS)
def test_two_files_see_what_their_directory_sees(name: str, tmp_path: Path) -> None:
    directory = WRITERS[name](tmp_path / "d")
    hears = {"a.blk.0.ffn.weight": np.zeros((4, 32), np.float32), "mm.a.fc.weight": np.zeros(4, np.float32)}
    whole, both = open_checkpoint(directory), pair(tmp_path, directory, more=hears)
    assert projector_kind(both) == "gemma4v"
    assert sees(both)
    assert describe(both).given_span == describe(whole).given_span == (280 if name == "large" else 0)
    assert describe(replace(both, projector=None)).given_span == 0
    np.testing.assert_allclose(rows_of(both), rows_of(whole), atol=1e-5)
    near = rows_of(pair(tmp_path, directory, "Q8_0")) - rows_of(whole)
    assert 0 < np.sqrt(np.mean(near**2)) < 0.1 * np.std(rows_of(whole))
    logits = []
    for each in (whole, both):
        runner = build_runner(each, EngineOptions(quantization="f32", threads=2))
        own = {"seen": reach()} if name == "large" else {}
        logits.append(RunnerDriver(runner).step([(DrivenSequence(), IDS)], given=(GIVEN, PLACES), **own))
        runner.close()
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-3)


def test_how_pictures_are_prepared(tmp_path: Path) -> None:
    directory = write_tiny_gemma4_small_vl(tmp_path / "d")
    own = load_sight(open_checkpoint(directory), EngineOptions(threads=1))
    both = load_sight(pair(tmp_path, directory), EngineOptions(threads=1))
    assert own is not None
    assert both is not None
    own.encoder.close()
    both.encoder.close()
    assert isinstance(own.tiling, Filling)
    assert isinstance(both.tiling, Filling)
    assert (own.tiling.rows, both.tiling.rows) == (MOST_ROWS, 280)
    shown = own.tiling.normalized(np.array([[0, 255, 51]], np.uint8))
    assert shown.tolist() == [[-1, 1, pytest.approx(-0.6)]]
    assert not own.by_axes
    assert (own.wording.mark, own.wording.place) == ("<|image|>", "<pad>")
    assert both.tiling.low.rows == 70


def test_memory_is_told_with_the_eyes(checkpoint: Checkpoint) -> None:
    options = EngineOptions(threads=2)
    need, text = sight_need(checkpoint, options), EngineOptions(threads=2, sees=False)
    more = memory_need(checkpoint, options).weights - memory_need(checkpoint, text).weights
    assert more == need.num_bytes - sum(checkpoint.tensor(name).data.nbytes for name in need.tensors)
    assert need.num_bytes > 0


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"hidden_activation": "silu"}, "'hidden_activation'"),
        ({"num_attention_heads": 3}, "a shape the engine does not run"),
        ({"patch_size": 5}, "patches of 5 pixels"),
        ({"num_hidden_layers": 4000}, "no 4000 layers"),
        ({"pooling_kernel_size": 30}, "no 1200 positions"),
    ],
)
def test_what_does_not_fit_is_refused(vision: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = open_checkpoint(write_tiny_gemma4_small_vl(tmp_path / "d", vision_config={**VISION, **vision}))
    with pytest.raises(CheckpointError, match=message):
        describe_any_size(model, MOST_ROWS)


def test_bounds_that_are_none_are_refused(tmp_path: Path) -> None:
    plain = open_checkpoint(write_tiny_gemma4_small_vl(tmp_path / "d"))
    name = "model.vision_tower.encoder.layers.1.mlp.up_proj.input_"
    least, most = plain.tensor(f"{name}min"), plain.tensor(f"{name}max")
    assert dequantize(least)[0] < dequantize(most)[0]
    swapped = {**plain.tensors, f"{name}min": most, f"{name}max": least}
    with pytest.raises(CheckpointError, match="up_proj.input_min"):
        describe_any_size(replace(plain, tensors=swapped), MOST_ROWS)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"vision.block_count": 1}, "nothing here computes with: v.blk.1"),
        ({"vision.block_count": 1 << 30}, "block_count"),
        ({"vision.projection_dim": 2 * HIDDEN}, "rows of 128 numbers"),
        ({"vision.feed_forward_length": 64}, "has shape .* and its keys mean"),
        ({"vision.patch_size": None}, "patch_size"),
    ],
)
def test_files_that_do_not_fit_are_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    directory = write_tiny_gemma4_small_vl(tmp_path / "d")
    with pytest.raises(CheckpointError, match=message):
        pair(tmp_path, directory, keys=keys)
