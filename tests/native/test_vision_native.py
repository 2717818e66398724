"""Rows of pictures on the native engine: the same bits whoever computes them, and in any step."""

from __future__ import annotations

import numpy as np
import pytest
from runner_driver import DrivenSequence, RunnerDriver
from tiny_vision import HIDDEN, ROWS, TILE, VOCAB, write_tiny_smolvlm

from llm_serving.architectures import describe_vision
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, RequestCancelled
from llm_serving.native.core import load_core
from llm_serving.native.vision import NativeVision

IDS = [*range(5, 10), *[1] * ROWS, *range(20, 31), *[1] * ROWS, 12]
PLACES = np.array([i for i, token in enumerate(IDS) if token == 1], np.int32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_tiny_smolvlm(tmp_path_factory.mktemp("vision")))


def tile(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (TILE, TILE, 3)).astype(np.float32)


@pytest.mark.parametrize("weight_format", ["f32", "q8"])
def test_rows_are_the_same_whoever_computes_them(checkpoint: Checkpoint, weight_format: str) -> None:
    plan, shaped = describe_vision(checkpoint, TILE)
    found = []
    for isa in load_core().instruction_sets():
        for threads in (1, 3):
            vision = NativeVision(plan, shaped, threads=threads, isa=isa, weight_format=weight_format)
            rows = [vision.encode(tile(seed)) for seed in (0, 1, 0)]
            assert (rows[0] == rows[2]).all()
            assert (rows[0] != rows[1]).any()
            assert rows[0].shape == (ROWS, HIDDEN)
            found.append(np.concatenate(rows))
            vision.close()
    assert all((rows == found[0]).all() for rows in found)


@pytest.mark.skipif(not load_core().tile_set(), reason="this CPU has no tiles of bfloat16")
def test_tiles_are_chosen_for_eight_bits_alone(checkpoint: Checkpoint) -> None:
    """And give the same bits whatever the threads."""
    core = load_core()
    plan, shaped = describe_vision(checkpoint, TILE)

    def rows(isa: str, weight_format: str, threads: int = 2) -> np.ndarray:
        vision = NativeVision(plan, shaped, threads=threads, isa=isa, weight_format=weight_format)
        return vision.encode(tile(0)).copy()

    tiles, usual = core.tile_set(), core.instruction_sets()[0]
    assert (rows("auto", "f32") == rows(usual, "f32")).all()
    assert (rows("auto", "q8") != rows(usual, "q8")).any()
    assert all((rows("auto", "q8", threads) == rows(tiles, "q8")).all() for threads in (1, 3))


def test_whoever_is_interrupted_gives_up_and_can_go_on(checkpoint: Checkpoint) -> None:
    vision = NativeVision(*describe_vision(checkpoint, TILE), threads=2)
    rows = vision.encode(tile(0))
    vision.interrupt()
    for _ in range(2):
        with pytest.raises(RequestCancelled):
            vision.encode(tile(1))
    vision.resume()
    assert (vision.encode(tile(0)) == rows).all()
    vision.close()


def test_eight_bits_are_near(checkpoint: Checkpoint) -> None:
    plan, shaped = describe_vision(checkpoint, TILE)
    exact, near = (NativeVision(plan, shaped, weight_format=each).encode(tile(0)) for each in ("f32", "q8"))
    assert 0 < np.abs(near - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize("quantization", ["f32", "auto"])
def test_given_rows_stand_in_any_step(checkpoint: Checkpoint, quantization: str) -> None:
    rows = np.random.default_rng(3).standard_normal((2 * ROWS, HIDDEN)).astype(np.float32)
    runner = build_runner(checkpoint, EngineOptions(quantization=quantization, threads=2))
    driver = RunnerDriver(runner)
    whole = driver.step([(DrivenSequence(), IDS)], given=(rows, PLACES))
    blind = driver.step([(DrivenSequence(), IDS)])
    assert (whole[: PLACES[0]] == blind[: PLACES[0]]).all()
    assert (whole[PLACES[0] :] != blind[PLACES[0] :]).any(axis=1).all()
    for cut in (1, 3, 7):
        sequence, parts = DrivenSequence(), []
        for start in range(0, len(IDS), cut):
            own = np.flatnonzero((start <= PLACES) & (start + cut > PLACES))
            given = (rows[own], PLACES[own] - start) if len(own) else None
            parts.append(driver.step([(sequence, IDS[start : start + cut])], given=given))
        assert (np.concatenate(parts) == whole).all()
    beside = driver.step(
        [(DrivenSequence(), [7, 8, 9]), (DrivenSequence(), IDS)], given=(rows, PLACES + np.int32(3))
    )
    assert (beside[3:] == whole).all()
    runner.close()


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        (np.zeros((1, HIDDEN + 1), np.float32), [0]),
        (np.zeros((1, HIDDEN), np.float32), [3]),
        (np.zeros((1, HIDDEN), np.float32), [-1]),
        (np.zeros((2, HIDDEN), np.float32), [1, 1]),
        (np.zeros((2, HIDDEN), np.float32), [1, 0]),
        (np.zeros((2, HIDDEN), np.float32), [1]),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    checkpoint: Checkpoint, rows: np.ndarray, places: list[int]
) -> None:
    runner = build_runner(checkpoint, EngineOptions(threads=1))
    with pytest.raises(ValueError, match="given rows"):
        RunnerDriver(runner).step([(DrivenSequence(), [5, 6, 7])], given=(rows, np.array(places)))
    assert RunnerDriver(runner).step([(DrivenSequence(), [5, VOCAB - 1])]).shape == (2, VOCAB)
    runner.close()


def test_what_no_patch_fills_is_left_out(checkpoint: Checkpoint) -> None:
    vision = NativeVision(*describe_vision(checkpoint, TILE + 5))
    whole = np.random.default_rng(4).uniform(-1, 1, (TILE + 5, TILE + 5, 3)).astype(np.float32)
    rows = vision.encode(whole)
    vision.close()
    exact = NativeVision(*describe_vision(checkpoint, TILE))
    assert (exact.encode(np.ascontiguousarray(whole[:TILE, :TILE])) == rows).all()
    exact.close()


def test_tiles_that_do_not_fit_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="Tiles of 24 pixels"):
        describe_vision(checkpoint, 24)
