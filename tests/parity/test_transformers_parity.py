"""The reference and the native engine against `transformers` on the dequantised weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

from agreement import Agreement, compare
from numpy_reference import NumpyModel
from runner_driver import RunnerDriver
from tiny_models import SMALLEST_VOCAB, write_tiny_llama, write_tiny_qwen2, write_tiny_qwen3
from transformers_oracle import TransformersOracle

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.checkpoints.chat_tokenizer import build_tokenizer
from llm_serving.engine.protocol import EngineOptions

pytestmark = pytest.mark.parity

WINDOW = 512
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES = {
    "grouped": {},
    "one-kv-head": {"hidden": 224, "heads": 7, "kv_heads": 1, "head_dim": 32, "layers": 3},
    "head-80": {"hidden": 160, "heads": 2, "kv_heads": 2, "rope_base": 100000.0},
    "wide-heads": {"hidden": 96, "heads": 3, "kv_heads": 1, "head_dim": 64},
    "untied": {"tied": False, "vocab": SMALLEST_VOCAB + 34},
    "k-quants": {"kind": "Q4_K", "hidden": 256, "ffn": 256, "kinds": {"ffn_down": "Q6_K"}},
}


MOST = 4e-4  # of logits that span 15 to 25; float32 sums in another order, through attention


def random_ids(count: int) -> list[int]:
    return np.random.default_rng(8).integers(0, SMALLEST_VOCAB, count).tolist()


@pytest.mark.parametrize("write", [write_tiny_llama, write_tiny_qwen2, write_tiny_qwen3])
@pytest.mark.parametrize("shape", SHAPES)
def test_reference_is_transformers(tmp_path: Path, write, shape: str) -> None:
    checkpoint = open_checkpoint(str(write(tmp_path / "m.gguf", **SHAPES[shape])))
    ids = random_ids(100)
    expected = TransformersOracle(checkpoint).logits(ids)
    ours = NumpyModel(checkpoint, quantize_activations=False).logits(ids)
    assert np.abs(ours - expected).max() < MOST
    assert np.ptp(expected) > 10


def test_llama_3_frequencies(tmp_path: Path) -> None:
    """GGUF stores llama 3's scaling as divisors of the frequencies, by the formula of the model's config."""
    frequencies = 500000.0 ** (-np.arange(0, 16, 2) / 16)
    wavelengths = 2 * np.pi / frequencies
    mix = np.clip((32 / wavelengths - 1.0) / (4.0 - 1.0), 0, 1)
    factors = 1 / ((1 - mix) / 8.0 + mix)
    assert 1.0 in factors
    assert 8.0 in factors
    shape = {"rope_base": 500000.0, "rope_factors": tuple(factors)}
    checkpoint = open_checkpoint(str(write_tiny_llama(tmp_path / "m.gguf", **shape)))
    ids = random_ids(100)
    expected = TransformersOracle(checkpoint, rope_scaling=LLAMA_3_ROPE).logits(ids)
    ours = NumpyModel(checkpoint, quantize_activations=False).logits(ids)
    assert np.abs(ours - expected).max() < MOST
    assert np.abs(TransformersOracle(checkpoint).logits(ids) - expected).max() > 0.1


@pytest.fixture(scope="module")
def oracle(real_checkpoint: Checkpoint) -> TransformersOracle:
    return TransformersOracle(real_checkpoint)


@pytest.fixture(scope="module")
def text_ids(real_checkpoint: Checkpoint) -> list[int]:
    text = Path(__file__).with_name("english.txt").read_text(encoding="utf-8")
    return build_tokenizer(real_checkpoint).encode(text)


def test_reference_is_transformers_on_the_real_model(
    real_checkpoint: Checkpoint, oracle: TransformersOracle, text_ids: list[int]
) -> None:
    """What is left between the engine and `transformers` is then the engine's int8 activations alone."""
    ours = NumpyModel(real_checkpoint, quantize_activations=False).logits(text_ids[:256])
    assert np.abs(ours - oracle.logits(text_ids[:256])).max() < 1e-3


def test_native_agrees_with_transformers(
    real_checkpoint: Checkpoint, oracle: TransformersOracle, text_ids: list[int], capsys
) -> None:
    runner = build_runner(real_checkpoint, EngineOptions(context_length=WINDOW, max_concurrency=1))
    agreement: Agreement = compare(RunnerDriver(runner).logits, oracle.logits, text_ids, WINDOW)
    runner.close()
    with capsys.disabled():
        print(f"\nnative engine against transformers: {agreement}")
    assert agreement.positions >= 2000
    assert agreement.top1 >= 0.97
    assert agreement.mean_kl <= 0.01
    assert agreement.our_perplexity <= 1.01 * agreement.their_perplexity
