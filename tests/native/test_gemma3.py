"""Gemma 3: windows give the same bits however a context was cut, and nothing before them matters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_models import SMALLEST_VOCAB, write_tiny_gemma3

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.core import load_core

LENGTH = 700  # three pieces of a context, and more than two windows


def ids(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SMALLEST_VOCAB, LENGTH)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(
        write_tiny_gemma3(tmp_path / "m.gguf", window=290, layers=7, context=1024, kind="Q8_0", rope_base=1e6)
    )


@pytest.mark.parametrize("kv_cache", ["q16", "q8"])
def test_chunks_threads_and_instruction_sets(checkpoint: Checkpoint, make_driver, kv_cache: str) -> None:
    expected = make_driver(checkpoint, kv_cache=kv_cache).logits(ids(), chunk=512)
    for chunk, threads in ((1, 2), (7, 1), (100, 2)):
        ours = make_driver(checkpoint, kv_cache=kv_cache, threads=threads, seed=chunk).logits(
            ids(), chunk=chunk
        )
        np.testing.assert_array_equal(ours, expected)
    for isa in load_core().instruction_sets()[1:]:
        np.testing.assert_array_equal(
            make_driver(checkpoint, kv_cache=kv_cache, isa=isa).logits(ids()), expected
        )


def test_a_window_ends(tmp_path: Path, make_driver) -> None:
    """With layers that have windows only, a token sees as many as they add up to."""
    path = write_tiny_gemma3(tmp_path / "m.gguf", window=20, layers=3, context=1024, kind="F32")
    driver = make_driver(open_checkpoint(path), quantization="f32")
    one, other = ids(), ids()
    other[600] += 1 if other[600] == 0 else -1
    differ = (driver.logits(one) != driver.logits(other)).any(axis=1)
    assert np.flatnonzero(differ).min() == 600
    assert np.flatnonzero(differ).max() == 600 + 3 * (20 - 1)


def test_which_layers_have_one(checkpoint: Checkpoint) -> None:
    plan = describe(checkpoint)
    windows = [operation.window for operation in plan.operations if type(operation).__name__ == "Attention"]
    thetas = [
        (operation.rope or plan.rope).theta
        for operation in plan.operations
        if type(operation).__name__ == "RopeStore"
    ]
    assert windows == [290] * 5 + [0, 290]
    assert thetas == [1e4] * 5 + [1e6, 1e4]
    assert [o.scale for o in plan.operations if type(o).__name__ == "Embed"] == [8.0]


def test_directories_are_not_read(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="GGUF files only"):
        describe(dataclasses.replace(checkpoint, format="huggingface"))
