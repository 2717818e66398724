"""The native engine against the numpy reference with the same quantisation.

Both add in different orders, so they differ by 1e-7 of the logits' range until a value lies so near a
rounding edge that the two sides round it differently. Such a flip is rare, but it moves the logits by up
to a percent, and everything later in the sequence with it. So most short sequences must agree to 2e-6,
which any wrong operation, scale or rounding rule breaks for all of them, and the rest to a few percent.

Matrices packed as q8 read 16-bit activations: 256 times as many edges, each moving 1/256 as much. There
flips are common and harmless: where all matrices are q8, every sequence must agree to 5e-4, and where some
are, "the same" means to 2e-5.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from numpy_reference import EXACT_KINDS, FOUR_BIT_KINDS, NARROW_KINDS, NumpyModel
from tiny_models import (
    SMALLEST_VOCAB,
    write_tiny_gemma2,
    write_tiny_llama,
    write_tiny_qwen2,
    write_tiny_qwen3,
)

from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.checkpoints.kinds import GGUF_KINDS

KINDS = ["Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0",
         "IQ4_NL", "IQ4_XS", "IQ1_S", "IQ2_XS", "IQ3_S", "MXFP4", "F16", "BF16", "F32"]  # fmt: skip
SHAPES = {
    "1-layer": {"layers": 1},
    "4-layers": {"layers": 4},
    "9-heads-over-3": {"hidden": 288, "heads": 9, "kv_heads": 3, "ffn": 416},
    "14-heads-over-2": {"heads": 14, "kv_heads": 2, "head_dim": 32, "layers": 1},
    "7-heads-over-1": {"hidden": 96, "heads": 7, "kv_heads": 1, "head_dim": 32},
    "no-groups": {"hidden": 96, "heads": 3, "kv_heads": 3},
    "head-80": {"hidden": 160, "heads": 2, "kv_heads": 1},
    "head-96": {"hidden": 192, "heads": 2, "kv_heads": 2},
    "head-128": {"hidden": 256, "heads": 2, "kv_heads": 1, "layers": 1},
    "head-64": {"heads": 3, "kv_heads": 1, "head_dim": 64},
    "odd-vocab": {"vocab": SMALLEST_VOCAB + 34, "tied": False},
    "llama-3-rope": {"rope_base": 500000.0, "rope_factors": (1, 1, 1.5, 2, 3, 5, 8, 8)},
    "mixed-kinds": {"kind": "Q4_1", "tied": False, "kinds": {"token_embd": "Q8_0", "ffn_down": "F16"}},
}
WRITERS = {
    "llama": write_tiny_llama,
    "qwen2": write_tiny_qwen2,
    "qwen3": write_tiny_qwen3,
    "gemma2": write_tiny_gemma2,
}


def short_sequences(vocab: int, count: int = 16) -> list[list[int]]:
    rng = np.random.default_rng(11)
    return [rng.integers(0, vocab, 1 + i % 6).tolist() for i in range(count)]


def relative_error(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Largest difference of each row's logits, as a share of the row's range."""
    return np.abs(ours - reference).max(axis=-1) / np.ptp(reference, axis=-1)


def assert_same_but_for_flips(
    errors: np.ndarray, *, exact_share: float, largest: float, same: float = 2e-6
) -> None:
    share = np.mean(errors < same)
    assert share >= exact_share, f"only {share:.0%} agree; errors {np.sort(errors)}"
    assert errors.max() <= largest


def short_errors(driver, checkpoint: Checkpoint) -> np.ndarray:
    reference = NumpyModel(checkpoint, quantize_activations=True, kv_format=driver.runner.kv_format)
    sequences = short_sequences(driver.runner.limits.vocab_size)
    pairs = [(driver.logits(ids)[-1], reference.logits(ids)[-1]) for ids in sequences]
    return relative_error(*(np.array(side) for side in zip(*pairs, strict=True)))


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_kind(tmp_path, make_driver, family: str, kind: str) -> None:
    shape = {"hidden": 256, "ffn": 256, "layers": 1} if GGUF_KINDS[kind].block_size == 256 else {}
    checkpoint = open_checkpoint(str(WRITERS[family](tmp_path / "m.gguf", kind=kind, **shape)))
    errors = short_errors(make_driver(checkpoint), checkpoint)
    if (
        kind in NARROW_KINDS
    ):  # logits of what has no four bits are made of 16-bit activations, which flip more
        same = 2e-6 if kind in FOUR_BIT_KINDS else 2e-5
        assert_same_but_for_flips(errors, exact_share=0.6, largest=0.03, same=same)
    else:
        assert_same_but_for_flips(errors, exact_share=0.01, largest=5e-4)


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(tmp_path, make_driver, family: str, shape: str) -> None:
    checkpoint = open_checkpoint(str(WRITERS[family](tmp_path / "m.gguf", **SHAPES[shape])))
    errors = short_errors(make_driver(checkpoint), checkpoint)
    same = 2e-5 if shape == "mixed-kinds" else 2e-6
    assert_same_but_for_flips(errors, exact_share=0.6, largest=0.03, same=same)


@pytest.mark.parametrize("shape", ["4-layers", "9-heads-over-3", "no-groups", "head-80", "head-128"])
@pytest.mark.parametrize("kv_cache", ["q8", "q4"])
def test_fewer_bits_of_keys_and_values(tmp_path, make_driver, kv_cache: str, shape: str) -> None:
    checkpoint = open_checkpoint(str(write_tiny_llama(tmp_path / "m.gguf", **SHAPES[shape])))
    errors = short_errors(make_driver(checkpoint, kv_cache=kv_cache), checkpoint)
    # A step is larger, and so is a flip; and vectors that are turned in other orders are rounded otherwise.
    assert_same_but_for_flips(errors, exact_share=0.1, largest=0.03 if kv_cache == "q8" else 0.3)


@pytest.mark.parametrize("kv_format", ["q16", "q8", "q4"])
@pytest.mark.parametrize("family", WRITERS)
def test_long_context(tmp_path, make_driver, family: str, kv_format: str) -> None:
    """Many blocks, scattered in memory. One layer, so that a flip of one position stays there."""
    path = WRITERS[family](tmp_path / "m.gguf", kind="F16", layers=1, context=512)
    checkpoint = open_checkpoint(str(path))
    ids = np.random.default_rng(3).integers(0, SMALLEST_VOCAB, 500).tolist()
    reference = NumpyModel(checkpoint, quantize_activations=True, kv_format=kv_format).logits(ids)
    errors = relative_error(make_driver(checkpoint, kv_cache=kv_format).logits(ids), reference)
    assert_same_but_for_flips(errors, exact_share=0.01, largest=5e-4)


@pytest.mark.model
def test_first_layer_of_the_real_model(real_checkpoint: Checkpoint, make_driver) -> None:
    """Real weights, cut after one layer: deep enough for every operation, too shallow for flips to spread."""
    checkpoint = dataclasses.replace(
        real_checkpoint,
        metadata={**real_checkpoint.metadata, "llama.block_count": 1},
        tensors={
            n: t for n, t in real_checkpoint.tensors.items() if not n.startswith("blk.") or "blk.0." in n
        },
    )
    errors = short_errors(make_driver(checkpoint, context_length=64), checkpoint)
    assert_same_but_for_flips(errors, exact_share=0.5, largest=0.03, same=2e-5)


@pytest.mark.model
def test_real_model_is_nearer_than_rounding_noise(
    real_checkpoint: Checkpoint, real_packed, make_driver
) -> None:
    """30 layers spread every flip; what is left is the noise of the int8 roundings themselves, not more."""
    ids = np.random.default_rng(4).integers(17, 20000, 64).tolist()
    ours = make_driver(real_checkpoint, context_length=64, threads=2, **real_packed).logits(ids)
    model = NumpyModel(real_checkpoint, quantize_activations=True)
    reference = model.logits(ids)
    # Packing rounds none of its matrices, so they are those of the exact model: half a minute of decoding.
    assert {t.kind for t in real_checkpoint.tensors.values() if len(t.shape) == 2} <= EXACT_KINDS
    unrounded = copy.copy(model)
    unrounded.quantized = False
    exact = unrounded.logits(ids)
    noise = np.square(reference - exact).mean()
    assert np.square(ours - reference).mean() < 2 * noise
    assert np.square(ours - exact).mean() < 1.5 * noise
    assert relative_error(ours, reference).max() < 0.1
