"""Gemma 2: soft caps, and the same model as a file and as a directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_models import GEMMA2_CAPS, SMALLEST_VOCAB, write_tiny_gemma2

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

IDS = np.random.default_rng(1).integers(0, SMALLEST_VOCAB, 400)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = write_tiny_gemma2(
        tmp_path_factory.mktemp("model") / "m.gguf", window=290, layers=3, context=512, kind="F32"
    )
    return open_checkpoint(path)


def with_keys(checkpoint: Checkpoint, **keys: Any) -> Checkpoint:
    named = {f"gemma2.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


def windows(checkpoint: Checkpoint) -> list[int]:
    plan = describe(checkpoint)
    return [operation.window for operation in plan.operations if isinstance(operation, ops.Attention)]


@pytest.mark.parametrize("quantization", ["f32", "auto"])
def test_a_directory_is_the_same_model(
    checkpoint: Checkpoint, tmp_path: Path, make_driver, quantization: str
) -> None:
    directory = open_checkpoint(write_directory(tmp_path / "d", Path(checkpoint.path)))
    ours, expected = (
        make_driver(one, quantization=quantization).logits(IDS) for one in (directory, checkpoint)
    )
    largest = 2e-3 if quantization == "f32" else 2e-2  # norms lose a last bit, which may turn a rounding
    np.testing.assert_allclose(ours, expected, atol=largest * np.ptp(expected))


def test_logits_are_what_they_were_capped(checkpoint: Checkpoint, make_driver) -> None:
    cap = GEMMA2_CAPS["final_logit_softcapping"]
    uncapped = make_driver(with_keys(checkpoint, final_logit_softcapping=1e4)).logits(IDS)
    capped = make_driver(checkpoint).logits(IDS)
    assert np.abs(uncapped).max() > cap
    np.testing.assert_allclose(capped, cap * np.tanh(uncapped / cap), atol=0.01)


def test_scores_are_capped(checkpoint: Checkpoint, make_driver) -> None:
    """With a cap of nearly nothing all keys weigh the same, so their order does not matter."""
    keys = {"attn_logit_softcapping": 1e-6, "block_count": 1, "rope.freq_base": 1e4}
    flat = make_driver(with_keys(checkpoint, **keys))
    one, other = IDS[:40].copy(), IDS[:40].copy()
    other[:39] = other[:39][::-1]
    np.testing.assert_allclose(flat.logits(one)[-1], flat.logits(other)[-1], atol=0.02)
    usual = make_driver(with_keys(checkpoint, block_count=1))
    assert np.abs(usual.logits(one)[-1] - usual.logits(other)[-1]).max() > 0.1


def test_which_layers_have_a_window(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert windows(checkpoint) == [290, 0, 290]
    pattern = {"attention.sliding_window_pattern": np.array([False, True, True])}
    assert windows(with_keys(checkpoint, **pattern)) == [0, 290, 290]
    assert windows(with_keys(checkpoint, **{"attention.sliding_window_pattern": 3})) == [290, 290, 0]
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    directory = write_directory(tmp_path / "d", Path(checkpoint.path), layer_types=kinds)
    assert windows(open_checkpoint(directory)) == [0, 290, 290]


@pytest.mark.parametrize("pattern", [0, np.array([True]), np.array([1, 2, 3]), ["yes"] * 3])
def test_patterns_that_are_none_are_refused(checkpoint: Checkpoint, pattern: object) -> None:
    with pytest.raises(CheckpointError, match="'gemma2.attention.sliding_window_pattern'"):
        describe(with_keys(checkpoint, **{"attention.sliding_window_pattern": pattern}))


def test_no_caps(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Null in a config.json; where nothing is said, the family's own."""
    none = dict.fromkeys(GEMMA2_CAPS)
    plan = describe(open_checkpoint(write_directory(tmp_path / "d", Path(checkpoint.path), **none)))
    assert not any(isinstance(operation, ops.SoftCap) for operation in plan.operations)
    assert {o.cap for o in plan.operations if isinstance(o, ops.Attention)} == {0.0}
    silent = {key: value for key, value in checkpoint.metadata.items() if "softcapping" not in key}
    plan = describe(dataclasses.replace(checkpoint, metadata=silent))
    assert plan.operations[-1] == ops.SoftCap("logits", 30.0)
    assert {o.cap for o in plan.operations if isinstance(o, ops.Attention)} == {50.0}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attn_logit_softcapping": 0}, "'attn_logit_softcapping' .* positive number"),
        ({"final_logit_softcapping": "30"}, "'final_logit_softcapping' .* positive number"),
        ({"final_logit_softcapping": 1e-30}, "no model has such a cap"),
        ({"attn_logit_softcapping": 1e30}, "no model has such a cap"),
        ({"attention_bias": True}, "'attention_bias'"),
        ({"use_bidirectional_attention": True}, "'use_bidirectional_attention'"),
        ({"layer_types": ["full_attention"]}, "no list of 3 times"),
        ({"hidden_activation": "gelu"}, "'hidden_activation'"),
        ({"sliding_window": 0}, "'sliding_window'"),
    ],
)
def test_what_is_not_computed_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    directory = write_directory(tmp_path / "d", Path(checkpoint.path), **config)
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))
