"""`--kv-cache`: which values there are, how many tokens they leave room for, how a wrong one is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import write_tiny_llama

from llm_serving.backends.native_backend import build_runner, memory_need
from llm_serving.checkpoints import open_checkpoint
from llm_serving.config import Settings
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, InvalidRequest, ServingError
from llm_serving.service.loader import engine_options, fingerprint

HEAD_DIM = 64
BITS = {"auto": 16, "q16": 16, "q8": 8, "q4": 4}
VECTOR_BYTES = {name: 4 + HEAD_DIM * bits // 8 for name, bits in BITS.items()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shape = {"heads": 4, "kv_heads": 2, "head_dim": HEAD_DIM, "layers": 2}
    return write_tiny_llama(tmp_path / "m.gguf", context=2048, **shape)


def test_the_same_memory_holds_two_and_nearly_four_times_the_tokens(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    weights = sum(tensor.data.nbytes for tensor in checkpoint.tensors.values())
    room = 8 << 20
    for kv_cache, vector in VECTOR_BYTES.items():
        options = EngineOptions(
            memory_bytes=(150 << 20) + weights + room, max_concurrency=1000, kv_cache=kv_cache
        )
        runner = build_runner(checkpoint, options)
        a_token = 2 * 2 * 2 * vector  # keys and values of two heads in two layers
        assert runner.block_bytes == 16 * a_token
        assert runner.limits.num_blocks == room // runner.block_bytes
        runner.close()


def test_a_context_that_nobody_asked_for_gives_way(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = open_checkpoint(model)
    weights = sum(tensor.data.nbytes for tensor in checkpoint.tensors.values())
    a_token = 2 * 2 * 2 * VECTOR_BYTES["q16"]

    def context(tokens: int, context_length: int = 0) -> int:
        bound = (150 << 20) + weights + tokens * a_token
        runner = build_runner(checkpoint, EngineOptions(memory_bytes=bound, context_length=context_length))
        runner.close()
        return runner.limits.max_context

    assert context(2048) == 2048
    assert not caplog.records
    assert context(1000) == 992
    assert "may hold 992 tokens, for more of the model's 2048" in caplog.text
    assert context(1000, 992) == 992
    with pytest.raises(ServingError, match="one sequence of 993 tokens"):
        context(1000, 993)
    with pytest.raises(ServingError, match="one sequence of 512 tokens"):
        context(500)


def test_engine_names_what_it_has(model: Path) -> None:
    with pytest.raises(InvalidRequest, match="auto, q16, q8, q4, not as 'q5'") as caught:
        build_runner(open_checkpoint(model), EngineOptions(kv_cache="q5"))
    assert caught.value.param == "kv_cache"


@pytest.mark.parametrize("kv_cache", ["q16", "q8", "q4"])
def test_heads_that_are_too_long_are_named(tmp_path: Path, kv_cache: str) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", heads=1, kv_heads=1, head_dim=608)
    with pytest.raises(CheckpointError, match=r"have 608 dimensions; .* up to 576"):
        build_runner(open_checkpoint(path), EngineOptions(kv_cache=kv_cache))


def test_the_setting_reaches_the_engine_and_the_fingerprint(model: Path) -> None:
    plain, of_bytes = Settings(), Settings(kv_cache="q8")
    assert engine_options(of_bytes).kv_cache == "q8"
    assert fingerprint(model, plain) != fingerprint(model, of_bytes)


@pytest.mark.parametrize(
    ("asked", "context", "least"), [(0, 2048, 512), (1024, 1024, 1024), (9999, 2048, 2048)]
)
def test_what_is_needed_is_known_before(model: Path, asked: int, context: int, least: int) -> None:
    checkpoint = open_checkpoint(model)
    options = EngineOptions(context_length=asked, max_concurrency=4)
    need = memory_need(checkpoint, options)
    a_token = need.conversation_kv // context
    assert (need.least_kv, need.most_kv) == (least * a_token, 4 * context * a_token)
    for kv, length in ((need.least_kv, least), (need.conversation_kv, context), (need.most_kv, context)):
        runner = build_runner(checkpoint, replace(options, memory_bytes=need.weights + kv))
        assert runner.limits.max_context == length
        assert runner.limits.num_blocks * runner.block_bytes == kv
        runner.close()
    with pytest.raises(ServingError, match="Not enough memory"):
        build_runner(checkpoint, replace(options, memory_bytes=need.weights + need.least_kv - 1))
