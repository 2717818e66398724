"""Hunyuan: the base of rotary positions is stretched by alpha; norms follow the rotation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_models import SMALLEST_VOCAB, write_tiny_hunyuan, write_tiny_qwen3

from llm_serving.architectures import describe
from llm_serving.checkpoints import open_checkpoint
from llm_serving.errors import CheckpointError

IDS = np.random.default_rng(1).integers(0, SMALLEST_VOCAB, 400)
ALPHA = {"type": "dynamic", "alpha": 50.0, "factor": 1.0, "beta_fast": 32, "mscale": 1.0}  # as published
NEWER = {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "rope_theta": 1e4}
STRETCHED = 1e4 * 50.0 ** (16 / 14)


@pytest.mark.parametrize(
    "config",
    [{"rope_theta": 1e4, "rope_scaling": ALPHA}, {"rope_theta": 1.0, "rope_parameters": NEWER}],
    ids=["older", "newer"],
)
def test_alpha_stretches_the_base(tmp_path: Path, config: dict[str, Any]) -> None:
    """GGUF files hold the result, rounded to f32."""
    gguf = write_tiny_hunyuan(tmp_path / "m.gguf", kind="F32", rope_base=STRETCHED)
    directory = describe(open_checkpoint(write_directory(tmp_path / "d", gguf, **config)))
    assert directory.rope.theta == pytest.approx(STRETCHED)
    assert describe(open_checkpoint(gguf)).rope.theta == pytest.approx(STRETCHED)
    assert directory.rope.rotated == 16


@pytest.mark.parametrize("kv_cache", ["q16", "q8"])
def test_chunks(tmp_path: Path, make_driver, kv_cache: str) -> None:
    checkpoint = open_checkpoint(write_tiny_hunyuan(tmp_path / "m.gguf", kind="Q8_0", context=512))
    expected = make_driver(checkpoint, kv_cache=kv_cache).logits(IDS, chunk=512)
    for chunk in (7, 100):
        ours = make_driver(checkpoint, kv_cache=kv_cache, threads=2, seed=chunk).logits(IDS, chunk=chunk)
        np.testing.assert_array_equal(ours, expected)


def test_norms_follow_the_rotation(tmp_path: Path, make_driver) -> None:
    """The same numbers as a qwen3 are another model, but for the first token, which does not rotate."""
    hunyuan, qwen3 = (
        make_driver(open_checkpoint(write(tmp_path / name, kind="F32")), quantization="f32").logits(IDS[:40])
        for name, write in (("h.gguf", write_tiny_hunyuan), ("q.gguf", write_tiny_qwen3))
    )
    np.testing.assert_allclose(hunyuan[0], qwen3[0], atol=1e-3 * np.ptp(qwen3))
    assert np.abs(hunyuan[1:] - qwen3[1:]).max() > 0.1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {**ALPHA, "alpha": "50"}}, "'alpha' .* positive number"),
        ({"rope_scaling": {**ALPHA, "alpha": 1e300}}, "alpha .* is 1e.300"),
        ({"rope_scaling": {**ALPHA, "alpha": 1e-300}}, "alpha .* is 1e-300"),
        ({"rope_scaling": [1]}, "no object"),
        ({"attention_bias": True}, "'attention_bias'"),
        ({"mlp_bias": True}, "'mlp_bias'"),
        ({"use_cla": True}, "'use_cla'"),
        ({"use_qk_norm": False}, "'use_qk_norm'"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    gguf = write_tiny_hunyuan(tmp_path / "m.gguf", kind="F32")
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(write_directory(tmp_path / "d", gguf, **config)))
