"""Qwen-VL in two GGUF files sees what the directory sees that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_qwen import write_qwen_projector, write_qwen_text
from runner_driver import DrivenSequence, RunnerDriver
from tiny_qwen3_5_vl import write_tiny_qwen3_5, write_tiny_qwen3_5_moe
from tiny_qwen_vl import (
    HIDDEN,
    MOST_ROWS,
    PATCH,
    PLACE,
    UNIT,
    write_tiny_qwen2_vl,
    write_tiny_qwen3_vl,
    write_tiny_qwen3_vl_moe,
    write_tiny_qwen_vl,
)

from llm_serving.architectures import describe, describe_any_size, projector_kind, sees, with_projector
from llm_serving.backends.native_backend import build_runner, memory_need
from llm_serving.backends.sight import load_sight, sight_need
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.request import GivenRows
from llm_serving.engine.rotary import rotary_positions
from llm_serving.errors import CheckpointError
from llm_serving.images.any_size import MOST_ROWS as BOUND
from llm_serving.images.any_size import AnySize
from llm_serving.native.any_size_vision import AnySizeVision

WRITERS: dict[str, Callable[[Path], Path]] = {
    "qwen2_vl": write_tiny_qwen2_vl,
    "qwen2_5_vl": write_tiny_qwen_vl,
    "qwen3_vl": write_tiny_qwen3_vl,
    "qwen3_vl_moe": write_tiny_qwen3_vl_moe,
    "qwen3_5": write_tiny_qwen3_5,
    "qwen3_5_moe": write_tiny_qwen3_5_moe,
}
PICTURE = np.random.default_rng(1).uniform(-1, 1, (5 * UNIT, 7 * UNIT, 3)).astype(np.float32)


def pair(folder: Path, directory: Path, kind: str = "F32", **changes: Any) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    text = open_checkpoint(write_qwen_text(folder / "text.gguf", directory))
    file = write_qwen_projector(folder / "mmproj.gguf", directory, kind, **changes)
    return with_projector(text, open_checkpoint(file))


def rows_of(checkpoint: Checkpoint, weight_format: str = "f32") -> np.ndarray:
    plan, shaped = describe_any_size(checkpoint, MOST_ROWS)
    vision = AnySizeVision(plan, shaped, threads=2, weight_format=weight_format)
    rows = vision.encode(PICTURE)
    vision.close()
    return rows


def logits_of(checkpoint: Checkpoint, rows: np.ndarray) -> np.ndarray:
    ids = [5, 7, *[PLACE] * len(rows), 11, 12]
    rotary = rotary_positions([GivenRows(2, rows, bytes(16), (5, 7))], 0, len(ids))
    runner = build_runner(checkpoint, EngineOptions(quantization="f32", threads=2))
    places = np.arange(2, 2 + len(rows), dtype=np.int32)
    logits = RunnerDriver(runner).step([(DrivenSequence(), ids)], given=(rows, places), rotary=rotary)
    runner.close()
    return logits


@pytest.mark.parametrize("name", WRITERS)
def test_rows_and_logits_are_the_directory_s(name: str, tmp_path: Path) -> None:
    """Frames have a matrix each in a file, whose products are added: the last bits are others.

    So are those of Qwen3.5's logits: how fast a state fades is a logarithm in a directory.
    """
    directory = WRITERS[name](tmp_path)
    whole, both = open_checkpoint(directory), pair(tmp_path / "pair", directory)
    assert sees(both)
    assert not sees(replace(both, projector=None))
    assert describe(both).rope.axes == describe(whole).rope.axes
    expected, ours = rows_of(whole), rows_of(both)
    np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())
    logits, theirs = logits_of(both, expected), logits_of(whole, expected)
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-3 if name.startswith("qwen3_5") else 0)


@pytest.mark.parametrize("name", WRITERS)
def test_how_pictures_are_prepared(name: str, tmp_path: Path) -> None:
    directory = WRITERS[name](tmp_path)
    sight = load_sight(pair(tmp_path / "pair", directory), EngineOptions(threads=1))
    assert sight is not None
    assert sight.by_axes
    sight.encoder.close()
    shown = sight.tiling
    assert isinstance(shown, AnySize)
    assert (shown.patch, shown.side, shown.rows) == (PATCH, 2, BOUND)
    assert shown.least == (64 if name.startswith("qwen3") else 4) * UNIT**2
    np.testing.assert_allclose(shown.mean, [0.48145466, 0.4578275, 0.40821073], rtol=1e-6)
    keys = {"vision.image_min_pixels": 5 * UNIT**2, "vision.image_max_pixels": 90 * UNIT**2}
    bounded = load_sight(pair(tmp_path / "bounded", directory, keys=keys), EngineOptions(threads=1))
    assert bounded is not None
    bounded.encoder.close()
    assert isinstance(bounded.tiling, AnySize)
    assert (bounded.tiling.least, bounded.tiling.rows) == (5 * UNIT**2, 90)


@pytest.mark.parametrize(("name", "key"), [("qwen2_5_vl", "rms_norm_eps"), ("qwen3_vl", "layer_norm_eps")])
def test_epsilon_of_norms_is_read(name: str, key: str, tmp_path: Path) -> None:
    directory = WRITERS[name](tmp_path)
    plain, keys = open_checkpoint(directory), {"vision.attention.layer_norm_epsilon": 0.1}
    usual, vision = rows_of(plain), {**plain.metadata["vision_config"], key: 0.1}
    expected = rows_of(replace(plain, metadata={**plain.metadata, "vision_config": vision}))
    assert np.abs(expected - usual).max() > 0.01 * np.abs(usual).max()
    file = rows_of(pair(tmp_path / "pair", directory, keys=keys))
    np.testing.assert_allclose(file, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("kind", "bound"), [("F16", 2e-3), ("BF16", 1e-4)])
def test_other_kinds_are_near(name: str, kind: str, bound: float, tmp_path: Path) -> None:
    directory = WRITERS[name](tmp_path)
    exact = rows_of(pair(tmp_path / "exact", directory))
    near = rows_of(pair(tmp_path / kind, directory, kind))
    assert np.abs(near - exact).max() <= bound * np.abs(exact).max()


def test_memory_is_planned_for(tmp_path: Path) -> None:
    both, options = pair(tmp_path / "pair", write_tiny_qwen_vl(tmp_path)), EngineOptions(threads=1)
    more = memory_need(both, options).weights - memory_need(replace(both, projector=None), options).weights
    assert more == sight_need(both, options).num_bytes > 0


def test_one_text_family_has_two_generations_of_eyes(tmp_path: Path) -> None:
    newer = write_tiny_qwen_vl(tmp_path / "newer")
    text = open_checkpoint(write_qwen_text(tmp_path / "text.gguf", newer))
    assert projector_kind(text) in ("qwen2vl_merger", "qwen2.5vl_merger")
    for number, write in enumerate((write_tiny_qwen_vl, write_tiny_qwen2_vl)):
        directory = write(tmp_path / str(number))
        file = open_checkpoint(write_qwen_projector(tmp_path / f"{number}.gguf", directory))
        assert with_projector(text, file).projector is not None
    other = write_qwen_projector(tmp_path / "other.gguf", write_tiny_qwen3_vl(tmp_path / "other"))
    with pytest.raises(
        CheckpointError, match=r"'qwen3vl_merger', and 'text.gguf' takes 'qwen2\.5vl_merger' or"
    ):
        with_projector(text, open_checkpoint(other))


def test_views_that_no_layer_takes_are_refused(tmp_path: Path) -> None:
    text = write_qwen_text(tmp_path / "text.gguf", write_tiny_qwen3_5(tmp_path / "plain"))
    file = write_qwen_projector(tmp_path / "mmproj.gguf", write_tiny_qwen3_vl(tmp_path / "deep"))
    with pytest.raises(CheckpointError, match=r"makes 2 views .* and 'text.gguf' takes 0"):
        with_projector(open_checkpoint(text), open_checkpoint(file))


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("qwen2_5_vl", {"use_silu": None}, "use_silu' in .* is None; true is needed"),
    ("qwen2_5_vl", {"vision.n_wa_pattern": None}, "n_wa_pattern"),
    ("qwen2_5_vl", {"vision.feed_forward_length": 64}, "has shape .* and its keys mean"),
    ("qwen2_5_vl", {"vision.block_count": 2}, "nothing here computes with: v.blk.2."),
    ("qwen2_5_vl", {"vision.block_count": 1 << 30}, "block_count"),
    ("qwen2_vl", {"vision.projection_dim": 2 * HIDDEN}, "rows of 128 numbers"),
    ("qwen2_vl", {"vision.patch_size": 5}, "patch_embd.weight"),
    ("qwen2_vl", {"vision.spatial_merge_size": 3}, "'mm.0.weight'"),
    ("qwen3_vl", {"vision.is_deepstack_layers": [True]}, "3 times true or false"),
    ("qwen3_vl", {"vision.is_deepstack_layers": None}, "nothing here computes with: v.deepstack"),
    ("qwen3_vl", {"use_gelu": False}, "use_gelu"),
    ("qwen3_vl", {"vision.attention.layer_norm_epsilon": 0.0}, "layer_norm_epsilon"),
]


@pytest.mark.parametrize(("name", "keys", "message"), WRONG)
def test_what_does_not_fit_is_refused(name: str, keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        pair(tmp_path / "pair", WRITERS[name](tmp_path), keys=keys)
