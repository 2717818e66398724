"""`--quantization`: which values there are, what they cost in memory, how a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import write_tiny_llama

from llm_serving.backends.native_backend import build_runner
from llm_serving.backends.native_memory import _weight_bytes
from llm_serving.checkpoints import open_checkpoint
from llm_serving.config import Settings, SettingsError
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import InvalidRequest, ServingError
from llm_serving.service.loader import load_chat_model

# Bytes of 32 weights with their scales; the tiny model's are Q4_1, of which `auto` makes q4.
BYTES = {"auto": 20, "q4": 20, "q8": 34, "f32": 128}


# The same of kinds that have tables of their own.
CODED = {"MXFP4": 17, "IQ4_NL": 18, "IQ4_XS": 17.25, "IQ2_XS": 18.25, "IQ3_S": 17.25, "TQ2_0": 18}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "m.gguf", hidden=128, ffn=256)


@pytest.mark.parametrize("quantization", BYTES)
def test_weights_take_what_the_format_takes(model: Path, quantization: str) -> None:
    runner = build_runner(open_checkpoint(model), EngineOptions(quantization=quantization, max_concurrency=1))
    weights = 2 * (128 * 128 * 2 + 64 * 128 * 2 + 3 * 128 * 256) + 304 * 128  # 297 tokens in panels of eight
    assert runner.weight_bytes == pytest.approx(weights / 32 * BYTES[quantization], rel=0.05)
    runner.close()


@pytest.mark.parametrize("quantization", ["auto", "q4", "q8"])
@pytest.mark.parametrize("kind", CODED)
def test_four_bits_with_a_table_stay_four_bits(tmp_path: Path, kind: str, quantization: str) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", kind=kind, hidden=256, ffn=256, layers=1)
    checkpoint, options = open_checkpoint(path), EngineOptions(quantization=quantization, max_concurrency=1)
    runner = build_runner(checkpoint, options)
    weights = 256 * 256 * 2 + 128 * 256 * 2 + 3 * 256 * 256 + 304 * 256
    expected = weights / 32 * (34 if quantization == "q8" else CODED[kind])
    assert runner.weight_bytes == pytest.approx(expected, rel=0.05)
    if quantization == "auto":
        assert _weight_bytes(checkpoint, options) == pytest.approx(expected, rel=0.05)
    runner.close()


def test_memory_bound_counts_the_weights_as_they_are_held(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    bytes_in_file = sum(tensor.data.nbytes for tensor in checkpoint.tensors.values())
    bound = (150 << 20) + 3 * bytes_in_file  # of which a context of 256 tokens takes one third
    build_runner(checkpoint, EngineOptions(memory_bytes=bound, max_concurrency=1)).close()
    with pytest.raises(ServingError, match="Not enough memory"):
        build_runner(checkpoint, EngineOptions(memory_bytes=bound, quantization="f32", max_concurrency=1))


@pytest.mark.parametrize("quantization", ["f16", "q6", ""])
def test_engine_names_what_it_has(model: Path, quantization: str) -> None:
    with pytest.raises(InvalidRequest, match="auto, q4, q8, f32") as caught:
        build_runner(open_checkpoint(model), EngineOptions(quantization=quantization))
    assert caught.value.param == "quantization"


def test_error_names_the_flag(model: Path) -> None:
    with pytest.raises(SettingsError, match=r"--quantization \(LLM_SERVING_QUANTIZATION\).*not as 'bf16'"):
        load_chat_model(Settings(model_name=str(model), quantization="bf16"))
