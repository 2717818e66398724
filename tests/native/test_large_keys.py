"""Qwen2's biases make some channels of keys a hundred times as large as the rest; one scale serves all."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy_reference
import pytest
from numpy_reference import NumpyModel, causal_attention
from tiny_models import SMALLEST_VOCAB, write_tiny_qwen2

from llm_serving.checkpoints import Checkpoint, open_checkpoint

LARGE = {3: 300.0, 17: -180.0, 40: 90.0}  # of 64 dimensions of a head; the others are near 1


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    path = write_tiny_qwen2(
        tmp_path / "m.gguf", kind="F32", heads=3, kv_heads=1, head_dim=64, layers=1, context=256
    )
    found = open_checkpoint(str(path))
    bias = found.tensors["blk.0.attn_k.bias"]
    values = np.frombuffer(bias.data.tobytes(), np.float32).copy()
    for channel, value in LARGE.items():
        values[channel] = value
    changed = dataclasses.replace(bias, data=values.view(bias.data.dtype).reshape(bias.data.shape))
    return dataclasses.replace(found, tensors={**found.tensors, "blk.0.attn_k.bias": changed})


def halved(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


def test_q16_is_as_exact_as_f16(checkpoint: Checkpoint, make_driver, monkeypatch) -> None:
    ids = np.random.default_rng(5).integers(0, SMALLEST_VOCAB, 200).tolist()
    exact = NumpyModel(checkpoint, quantize_activations=False).logits(ids)
    monkeypatch.setattr(
        numpy_reference,
        "causal_attention",
        lambda q, k, v, *limits: causal_attention(q, halved(k), halved(v), *limits),
    )
    in_f16 = NumpyModel(checkpoint, quantize_activations=False).logits(ids)

    def error(logits: np.ndarray) -> float:
        return float(np.sqrt(np.mean((logits - exact) ** 2)))

    ours = {
        kv_cache: error(make_driver(checkpoint, quantization="f32", kv_cache=kv_cache).logits(ids))
        for kv_cache in ("q16", "q8")
    }
    assert 0 < ours["q16"] < 1.5 * error(in_f16)
    assert ours["q8"] > 10 * ours["q16"]
