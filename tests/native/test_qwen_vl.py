"""Qwen-VL on the native engine: the same bits whoever computes a picture's rows, and in any step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence, RunnerDriver
from tiny_qwen3_5_vl import write_tiny_qwen3_5, write_tiny_qwen3_5_moe
from tiny_qwen_vl import (
    HIDDEN,
    MOST_ROWS,
    PLACE,
    UNIT,
    VISION,
    write_tiny_qwen2_vl,
    write_tiny_qwen3_vl,
    write_tiny_qwen3_vl_moe,
    write_tiny_qwen_vl,
)

from llm_serving.architectures import describe, describe_any_size, sees
from llm_serving.backends.native_backend import build_runner, memory_need
from llm_serving.backends.sight import load_sight, sight_need
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.request import GivenRows
from llm_serving.engine.rotary import rotary_positions
from llm_serving.errors import CheckpointError, RequestCancelled
from llm_serving.native.any_size_vision import AnySizeVision, patch_places
from llm_serving.native.core import load_core

GRIDS = [(3, 5), (4, 1)]
IDS = [*range(5, 10), *[PLACE] * 15, *range(20, 31), *[PLACE] * 4, 12, 13, 14]
PLACES = np.flatnonzero(np.array(IDS) == PLACE).astype(np.int32)
WIDE = np.random.default_rng(3).standard_normal((19, 3 * HIDDEN)).astype(np.float32)
GIVEN = np.ascontiguousarray(WIDE[:, :HIDDEN])
PICTURES = [GivenRows(5, GIVEN[:15], bytes(16), GRIDS[0]), GivenRows(31, GIVEN[15:], bytes(16), GRIDS[1])]
TURNED = rotary_positions(PICTURES, 0, len(IDS))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_tiny_qwen_vl(tmp_path_factory.mktemp("qwen")))


@pytest.fixture(
    scope="module",
    params=[
        write_tiny_qwen_vl,
        write_tiny_qwen2_vl,
        write_tiny_qwen3_vl,
        write_tiny_qwen3_vl_moe,
        write_tiny_qwen3_5,
        write_tiny_qwen3_5_moe,
    ],
)
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(request.param(tmp_path_factory.mktemp("each")))


def picture(grid: tuple[int, int], seed: int = 0) -> np.ndarray:
    shape = (grid[0] * UNIT, grid[1] * UNIT, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def vision_of(checkpoint: Checkpoint, **options: Any) -> AnySizeVision:
    return AnySizeVision(*describe_any_size(checkpoint, MOST_ROWS), **options)


def describe_both(checkpoint: Checkpoint) -> None:
    describe(checkpoint)
    describe_any_size(checkpoint, MOST_ROWS)


@pytest.mark.parametrize("weight_format", ["f32", "q8"])
def test_rows_are_the_same_whoever_computes_them(each: Checkpoint, weight_format: str) -> None:
    assert sees(each)
    found = []
    for isa in load_core().instruction_sets():
        for threads in (1, 3):
            vision = vision_of(each, threads=threads, isa=isa, weight_format=weight_format)
            rows = [vision.encode(picture(grid)) for grid in [(5, 7), (1, 1), (8, 5), (5, 7)]]
            assert [len(own) for own in rows] == [35, 1, 40, 35]
            assert (rows[0] == rows[3]).all(), "whatever it looked at before"
            found.append(np.concatenate(rows))
            vision.close()
    assert all((rows == found[0]).all() for rows in found)


def test_patches_see_their_window_and_then_all(tmp_path: Path) -> None:
    """Another colour in the first corner: without blocks that see all, only the first window notices."""
    for blocks, noticed in (([], 4), ([1], 16)):
        vision_part = {**VISION, "fullatt_block_indexes": blocks}
        model = open_checkpoint(write_tiny_qwen_vl(tmp_path / str(noticed), vision_config=vision_part))
        vision = vision_of(model)
        one, other = picture((4, 4)), picture((4, 4))
        other[:4, :4] += 1
        changed = (vision.encode(one) != vision.encode(other)).any(axis=1).reshape(4, 4)
        assert changed.sum() == noticed
        assert changed[:2, :2].all()
        vision.close()


def test_a_patch_has_its_own_row_and_column() -> None:
    places = patch_places(np.array([0, 3, 1]), 2, 2)
    assert places[:4].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert places[4:8].tolist() == [[0, 2, 2], [0, 2, 3], [0, 3, 2], [0, 3, 3]]
    assert places[8].tolist() == [0, 0, 2]


def test_whoever_is_interrupted_gives_up_and_can_go_on(checkpoint: Checkpoint) -> None:
    vision = vision_of(checkpoint, threads=2)
    rows = vision.encode(picture((3, 5)))
    vision.interrupt()
    with pytest.raises(RequestCancelled):
        vision.encode(picture((3, 5)))
    vision.resume()
    assert (vision.encode(picture((3, 5))) == rows).all()
    vision.close()


@pytest.mark.parametrize("kv_cache", ["q16", "q8"])
def test_turned_by_axes_in_any_step(each: Checkpoint, kv_cache: str) -> None:
    found = []
    wide = np.ascontiguousarray(WIDE[:, : describe(each).given_width])
    for isa in load_core().instruction_sets():
        for threads in (1, 2):
            options = EngineOptions(threads=threads, kv_cache=kv_cache)
            runner = build_runner(each, options, isa=isa)
            driver = RunnerDriver(runner)
            whole = driver.step([(DrivenSequence(), IDS)], given=(wide, PLACES), rotary=TURNED)
            for cut in (1, 3, 16):
                sequence, parts = DrivenSequence(), []
                for start in range(0, len(IDS), cut):
                    own = np.flatnonzero((start <= PLACES) & (start + cut > PLACES))
                    given = (wide[own], PLACES[own] - start) if len(own) else None
                    rotary = rotary_positions(PICTURES, start, min(cut, len(IDS) - start))
                    work = [(sequence, IDS[start : start + cut])]
                    parts.append(driver.step(work, given=given, rotary=rotary))
                assert (np.concatenate(parts) == whole).all()
            found.append(whole)
            runner.close()
    assert all((logits == found[0]).all() for logits in found)


def test_texts_beside_a_picture_are_what_they_are_alone(checkpoint: Checkpoint) -> None:
    runner = build_runner(checkpoint, EngineOptions(threads=2))
    driver = RunnerDriver(runner)
    alone = driver.step([(DrivenSequence(), [7, 8, 9])])
    whole = driver.step([(DrivenSequence(), IDS)], given=(GIVEN, PLACES), rotary=TURNED)
    beside = driver.step(
        [(DrivenSequence(), [7, 8, 9]), (DrivenSequence(), IDS)],
        given=(GIVEN, PLACES + np.int32(3)),
        rotary=np.concatenate([rotary_positions([], 0, 3), TURNED]),
    )
    assert (beside[:3] == alone).all()
    assert (beside[3:] == whole).all()
    straight = driver.step([(DrivenSequence(), IDS)], given=(GIVEN, PLACES))
    assert (straight[:6] == whole[:6]).all(), "a picture's first place is where a text would go on"
    assert (straight[6:] != whole[6:]).any(axis=1).all()
    runner.close()


@pytest.mark.parametrize(
    ("rotary", "message"),
    [
        (np.zeros((2, 3), np.int32), "three rotary positions"),
        (np.zeros((3, 2), np.int32), "three rotary positions"),
        (np.full((3, 3), -1, np.int32), "outside the context"),
        (np.full((3, 3), 1024, np.int32), "outside the context"),
    ],
)
def test_positions_that_do_not_fit_are_refused(
    checkpoint: Checkpoint, rotary: np.ndarray, message: str
) -> None:
    runner = build_runner(checkpoint, EngineOptions(threads=1))
    with pytest.raises(ValueError, match=message):
        RunnerDriver(runner).step([(DrivenSequence(), [5, 6, 7])], rotary=rotary)
    runner.close()


def test_memory_is_told_with_the_eyes(checkpoint: Checkpoint) -> None:
    options = EngineOptions(threads=2)
    need = sight_need(checkpoint, options)
    text = EngineOptions(threads=2, sees=False)
    more = memory_need(checkpoint, options).weights - memory_need(checkpoint, text).weights
    assert more == need.num_bytes - sum(checkpoint.tensor(name).data.nbytes for name in need.tensors)
    sight = load_sight(checkpoint, options)
    assert sight is not None
    assert sight.by_axes
    matrices, patches = sight.encoder.weight_bytes, 4 * MOST_ROWS
    assert matrices + 4 * patches * 96 < need.num_bytes < 4 * matrices + 4 * patches * 1000
    sight.encoder.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vision_config": {**VISION, "num_heads": 3}}, "a shape the engine does not run"),
        ({"vision_config": {**VISION, "patch_size": 5}}, "patches of 5 pixels"),
        ({"vision_config": {**VISION, "temporal_patch_size": 3}}, "is not for 3 frames"),
        ({"vision_config": {**VISION, "hidden_act": "gelu"}}, "'hidden_act'"),
        ({"vision_config": {**VISION, "in_chans": 4}}, "'in_chans'"),
        ({"vision_config": {**VISION, "depth": 4000}}, "no 4000 layers"),
        ({"vision_config": {**VISION, "window_size": 7}}, "smaller than what becomes one row"),
        ({"vision_config": {**VISION, "fullatt_block_indexes": "all"}}, "no list of blocks"),
        ({"vision_config": 5}, "no object"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]}}, "8 frequencies"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 6]}}, "no list of 3 numbers"),
        ({"hidden_act": "gelu"}, "'hidden_act'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    model = open_checkpoint(write_tiny_qwen_vl(tmp_path, **config))
    with pytest.raises(CheckpointError, match=message):
        describe_both(model)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"patch_size": 8}, "and the model takes 4, 2 and 2"),
        ({"temporal_patch_size": 1}, "and the model takes"),
        ({"max_pixels": 10}, "cannot be shown"),
        ({"min_pixels": 1 << 20}, "cannot be shown"),
        ({"merge_size": 0}, "'merge_size'"),
        ({"size": 5, "min_pixels": None}, "'size' is no object"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(
    tmp_path: Path, processor: dict[str, Any], message: str
) -> None:
    model = open_checkpoint(write_tiny_qwen_vl(tmp_path, processor))
    with pytest.raises(CheckpointError, match=message):
        load_sight(model, EngineOptions(threads=1))


def test_sections_lie_one_behind_the_other(checkpoint: Checkpoint) -> None:
    assert describe(checkpoint).rope.axes == (0, 0, 1, 1, 1, 2, 2, 2)
