"""A text model and its projector in GGUF files see what the directory sees that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_gemma
import tiny_vision
from gguf_pairs import write_pair, write_projector
from runner_driver import DrivenSequence, RunnerDriver

from llm_serving.architectures import describe, describe_vision, sees, with_projector
from llm_serving.backends.native_backend import build_runner, memory_need
from llm_serving.backends.sight import load_sight, sight_need
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.native.vision import NativeVision

WRITERS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "gemma3": (tiny_gemma.write_tiny_gemma, tiny_gemma.PLACE),
    "idefics3": (tiny_vision.write_tiny_smolvlm, tiny_vision.VOCAB - len(tiny_vision.IMAGE_TOKENS) + 1),
}
TILE = np.random.default_rng(1).uniform(-1, 1, (32, 32, 3)).astype(np.float32)


def pair(folder: Path, directory: Path, kind: str = "F32") -> Checkpoint:
    text, projector = write_pair(folder, directory, kind)
    return with_projector(open_checkpoint(text), open_checkpoint(projector))


def rows_of(checkpoint: Checkpoint, weight_format: str = "f32") -> np.ndarray:
    vision = NativeVision(*describe_vision(checkpoint, 32), threads=2, weight_format=weight_format)
    rows = vision.encode(TILE)
    vision.close()
    return rows


def logits_of(checkpoint: Checkpoint, rows: np.ndarray, place: int) -> np.ndarray:
    """Of a prompt with one picture, whose rows see each other where the model's do."""
    count = len(rows)
    ids = [5, 7, *[place] * count, 11, 12]
    seen = np.arange(1, len(ids) + 1, dtype=np.int32)
    seen[2 : 2 + count] = 2 + count
    runner = build_runner(checkpoint, EngineOptions(quantization="f32", threads=2))
    spans = runner.limits.given_span > 0
    places = np.arange(2, 2 + count, dtype=np.int32)
    driver = RunnerDriver(runner)
    logits = driver.step([(DrivenSequence(), ids)], given=(rows, places), seen=seen if spans else None)
    runner.close()
    return logits


@pytest.mark.parametrize("name", WRITERS)
def test_rows_and_logits_are_the_directory_s(name: str, tmp_path: Path) -> None:
    write, place = WRITERS[name]
    directory = write(tmp_path)
    whole, both = open_checkpoint(directory), pair(tmp_path / "pair", directory)
    assert sees(both)
    assert not sees(replace(both, projector=None))
    assert describe(both).given_span == describe(whole).given_span
    assert load_tiling(both) == load_tiling(whole)
    expected, ours = rows_of(whole), rows_of(both)
    if name == "idefics3":  # of Gemma's the input projection is in F16
        assert (ours == expected).all()
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    # Norms of Gemma's text model are 1 + w, which F32 rounds.
    reference, logits = logits_of(whole, expected, place), logits_of(both, expected, place)
    np.testing.assert_allclose(logits, reference, atol=1e-3 * np.abs(reference).max())
    blind = logits_of(both, np.zeros_like(expected), place)
    assert np.abs(blind - reference).max() > 0.05 * np.abs(reference).max()


def load_tiling(checkpoint: Checkpoint) -> object:
    sight = load_sight(checkpoint, EngineOptions(threads=1))
    assert sight is not None
    sight.encoder.close()
    return sight.tiling, sight.wording


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("kind", "bound"), [("F16", 2e-3), ("BF16", 1e-5), ("Q8_0", 0.02)])
def test_other_kinds_are_near(name: str, kind: str, bound: float, tmp_path: Path) -> None:
    """The directory is in BF16. A feed-forward of 48 has rows that Q8_0 cannot hold, and is padded to 64."""
    directory = WRITERS[name][0](tmp_path)
    exact = rows_of(pair(tmp_path / "exact", directory))
    near = rows_of(pair(tmp_path / kind, directory, kind))
    assert np.abs(near - exact).max() <= bound * np.abs(exact).max()
    packed = rows_of(pair(tmp_path / "again", directory, kind), "q8")
    assert 0 < np.abs(packed - exact).max() < 0.04 * np.abs(exact).max()


def test_older_files_swap_the_matrices_of_a_feed_forward(tmp_path: Path) -> None:
    directory = tiny_gemma.write_tiny_gemma(tmp_path)
    both = pair(tmp_path / "pair", directory)

    def swapped(name: str) -> str:
        other = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
        return ".".join(other.get(part, part) for part in name.split("."))

    older = open_checkpoint(write_projector(tmp_path / "older.gguf", directory, rename=swapped))
    assert older.tensors["v.blk.0.ffn_down.bias"].shape == (48,)
    again = with_projector(replace(both, projector=None), older)
    assert (rows_of(again) == rows_of(both)).all()


def test_memory_is_planned_for(tmp_path: Path) -> None:
    directory = tiny_vision.write_tiny_smolvlm(tmp_path)
    both, options = pair(tmp_path / "pair", directory), EngineOptions(threads=1)
    assert sight_need(both, options).num_bytes == sight_need(open_checkpoint(directory), options).num_bytes
    more = memory_need(both, options).weights - memory_need(replace(both, projector=None), options).weights
    assert more == sight_need(both, options).num_bytes > 0
