"""GLM-4: half of each head rotates, in pairs, and biases stand as their rows do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_models import SMALLEST_VOCAB, write_tiny_glm4

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.tables import halves_order

IDS = np.random.default_rng(1).integers(0, SMALLEST_VOCAB, 400)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(
        write_tiny_glm4(tmp_path_factory.mktemp("model") / "m.gguf", kind="Q8_0", context=512)
    )


def with_keys(checkpoint: Checkpoint, keys: dict[str, Any]) -> Checkpoint:
    named = {f"glm4.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


def test_rows_that_do_not_rotate_stay() -> None:
    assert halves_order(16, 8, 4).tolist() == [0, 2, 1, 3, 4, 5, 6, 7, 8, 10, 9, 11, 12, 13, 14, 15]
    assert halves_order(8, 8, 8).tolist() == halves_order(8, 8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.parametrize("kv_cache", ["q16", "q8"])
def test_chunks(checkpoint: Checkpoint, make_driver, kv_cache: str) -> None:
    expected = make_driver(checkpoint, kv_cache=kv_cache).logits(IDS, chunk=512)
    for chunk in (7, 100):
        ours = make_driver(checkpoint, kv_cache=kv_cache, threads=2, seed=chunk).logits(IDS, chunk=chunk)
        np.testing.assert_array_equal(ours, expected)


def test_biases_are_there_or_not(checkpoint: Checkpoint, tmp_path: Path, make_driver) -> None:
    """Files leave them out; directories say so, too."""
    plain = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.endswith(".bias")}
    without = dataclasses.replace(checkpoint, tensors=plain)
    directory = write_directory(tmp_path / "d", Path(checkpoint.path), attention_bias=False)
    ours, expected, biased = (
        make_driver(model, quantization="f32").logits(IDS[:40])
        for model in (open_checkpoint(directory), without, checkpoint)
    )
    np.testing.assert_array_equal(ours, expected)
    assert np.abs(ours - biased).max() > 0.1


def test_half_of_a_head_rotates(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert describe(checkpoint).rope.rotated == 8
    directory = write_directory(tmp_path / "d", Path(checkpoint.path))
    assert describe(open_checkpoint(directory)).rope.rotated == 8
    share = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}}
    directory = write_directory(tmp_path / "e", Path(checkpoint.path), **share)
    assert describe(open_checkpoint(directory)).rope.rotated == 4


@pytest.mark.parametrize(
    ("key", "value"), [("rope.dimension_sections", np.array([2, 2, 4])), ("nextn_predict_layers", 1)]
)
def test_what_files_have_and_is_not_computed(checkpoint: Checkpoint, key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"'glm4.{key}' .* not supported"):
        describe(with_keys(checkpoint, {key: value}))
    assert describe(with_keys(checkpoint, {"nextn_predict_layers": 0})) == describe(checkpoint)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attention_bias": 1.5}, "'attention_bias'"),
        ({"partial_rotary_factor": 2.0}, "Rotating 32 of 16"),
        ({"hidden_act": "gelu"}, "'hidden_act'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
    ],
)
def test_what_is_not_computed_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    directory = write_directory(tmp_path / "d", Path(checkpoint.path), **config)
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))
