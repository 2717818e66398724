"""A draft model beside a native one: the memory both take, and whose vocabulary does not fit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import write_tiny_llama

from llm_serving.backends.native_backend import build_draft_runner, build_runner, load, memory_need
from llm_serving.backends.native_draft import check_vocabulary, open_draft
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import InvalidRequest, ServingError


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "large.gguf", context=2048, layers=3, head_dim=64)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "small.gguf", context=1024, layers=1, head_dim=64, seed=5)


def test_weights_and_two_conversations_are_counted(large: Path, small: Path) -> None:
    checkpoint = open_checkpoint(large)
    alone = EngineOptions(max_concurrency=4, threads=1)
    both = replace(alone, draft_model=small)
    without, need = memory_need(checkpoint, alone), memory_need(checkpoint, both)
    weights = sum(tensor.data.nbytes for tensor in open_checkpoint(small).tensors.values())
    assert need.weights == without.weights + weights
    a_token = without.conversation_kv // 2048
    assert need.least_kv == without.least_kv + 2 * 512 * a_token // 3
    for of_both, of_one in ((need.conversation_kv, without.conversation_kv), (need.most_kv, without.most_kv)):
        assert of_both == of_one + 2 * 1024 * a_token // 3
    draft = open_draft(both)
    assert draft is not None
    for kv, context in ((need.least_kv, 512), (need.conversation_kv, 2048), (need.most_kv, 2048)):
        options = replace(both, memory_bytes=need.weights + kv)
        runner = build_runner(checkpoint, options)
        beside = build_draft_runner(draft, options, runner)
        assert runner.limits.max_context == context
        assert beside.limits.max_context == min(1024, context)
        taken = [one.limits.num_blocks * one.block_bytes for one in (runner, beside)]
        assert sum(taken) == kv
        runner.close()
        beside.close()
    with pytest.raises(ServingError, match="or leave --draft-model out"):
        build_runner(checkpoint, replace(both, memory_bytes=need.weights + need.least_kv - 1))


def test_a_pool_is_as_large_as_both_leave_room_for(large: Path, small: Path) -> None:
    checkpoint, both = open_checkpoint(large), EngineOptions(max_concurrency=4, threads=1, draft_model=small)
    need = memory_need(checkpoint, both)
    for room in range(need.least_kv, need.most_kv, (need.most_kv - need.least_kv) // 7):
        runner = build_runner(checkpoint, replace(both, memory_bytes=need.weights + room))
        blocks, block = runner.limits.num_blocks, runner.block_bytes
        runner.close()
        taken = blocks * block + 2 * min(blocks, 64) * block // 3
        assert room - 2 * block < taken <= room


def test_without_speculation_there_is_no_draft_model(large: Path, small: Path) -> None:
    options = EngineOptions(draft_model=small, speculation="off")
    assert open_draft(options) is None
    checkpoint = open_checkpoint(large)
    assert memory_need(checkpoint, options) == memory_need(checkpoint, EngineOptions())


def test_another_vocabulary_is_told_by_both_names(large: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(large)
    draft = open_draft(EngineOptions(draft_model=large))
    assert draft is not None
    token_bytes = build_tokenizer(checkpoint).token_bytes
    check_vocabulary(draft, checkpoint, token_bytes)
    check_vocabulary(draft, checkpoint, [*token_bytes, b"more"])
    check_vocabulary(draft, checkpoint, token_bytes[:-3])
    check_vocabulary(draft, checkpoint, [b"", *token_bytes[1:]])
    for other in ([*token_bytes[1:], b"x"], [*token_bytes[:-1], b"other"], [b""] * len(token_bytes)):
        with pytest.raises(
            InvalidRequest, match=r"'large.gguf' has another vocabulary than 'large.gguf'"
        ) as e:
            check_vocabulary(draft, checkpoint, other)
        assert e.value.param == "draft_model"
    with pytest.raises(InvalidRequest, match="another vocabulary"):
        load(checkpoint, [b"x", *token_bytes[1:-1], b"y"], EngineOptions(draft_model=large))


def test_a_file_that_is_no_model_is_told_as_the_setting(large: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(large.read_bytes()[:300])
    with pytest.raises(InvalidRequest, match="draft model cannot be used") as caught:
        memory_need(open_checkpoint(large), EngineOptions(draft_model=damaged))
    assert caught.value.param == "draft_model"


def test_both_runners_are_closed_with_the_engine(large: Path, small: Path) -> None:
    checkpoint = open_checkpoint(large)
    options = EngineOptions(threads=1, draft_model=small)
    engine = load(checkpoint, build_tokenizer(checkpoint).token_bytes, options)
    model = engine._core.scheduler.drafting.model
    assert model is not None
    asyncio.run(engine.close())
    assert model._runner._core is None  # type: ignore[attr-defined]
