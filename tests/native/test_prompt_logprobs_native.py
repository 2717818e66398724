"""Log-probabilities of prompts on the real kernels: those of a token are the same said and read."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from tiny_models import write_tiny_llama

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import open_checkpoint
from llm_serving.engine.core import EngineCore
from llm_serving.engine.protocol import EngineOptions, Sampler, Step
from llm_serving.engine.request import GenerateRequest, SamplingParams, TokenEvent, TokenLogprobs
from llm_serving.engine.sampler import NumpySampler
from llm_serving.native.runner import NativeRunner
from llm_serving.native.sampler import NativeSampler

TEXT = [(11 * i + i * i) % 500 for i in range(100)]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeRunner]:
    path = write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", vocab=516)
    runner = build_runner(open_checkpoint(path), EngineOptions(threads=2, max_concurrency=4))
    yield runner
    runner.close()


def run(runner: NativeRunner, params: list[SamplingParams], sampler: Sampler) -> list[list[TokenEvent]]:
    """All at once, each with `TEXT` up to its length less `max_tokens`, then step by step with its bias."""
    events: list[TokenEvent] = []
    core = EngineCore(runner, sampler, [], EngineOptions(max_concurrency=4), events.extend, print)
    for number, each in enumerate(params):
        core.submit(GenerateRequest(f"r{number}", TEXT[: len(TEXT) - each.max_tokens], each))
    events += core.step()
    while core.scheduler.has_work:
        events += core.step()
    return [[event for event in events if event.request_id == f"r{i}"] for i in range(len(params))]


def read(runner: NativeRunner, sampler: Sampler) -> tuple[TokenLogprobs, ...]:
    asked = SamplingParams(max_tokens=0, prompt_logprobs=3)
    ((event,),) = run(runner, [asked], sampler)
    assert event.prompt_logprobs is not None
    return event.prompt_logprobs


def test_both_samplers_tell_the_same_bits(runner: NativeRunner):
    told = read(runner, NumpySampler())
    assert len(told) == len(TEXT) - 1
    assert told == read(runner, NativeSampler(2)) == read(runner, NativeSampler(1, "scalar"))


def test_a_token_that_is_read_is_as_likely_as_one_that_is_said(runner: NativeRunner):
    """Each token once forced by a bias, which log-probabilities do not look at."""
    told = read(runner, NativeSampler(2))
    for size in (1, 30, 63, 64, 65, 99):
        force = ((TEXT[size], 100.0),)
        one = SamplingParams(len(TEXT) - size, 0.0, logit_bias=force, top_logprobs=3, prompt_logprobs=3)
        ((first, *_),) = run(runner, [one], NativeSampler(2))
        assert first.token_ids == (TEXT[size],)
        assert first.logprobs == told[size - 1]
        assert first.prompt_logprobs == told[: size - 1]


def test_they_are_the_logarithm_of_the_softmax(runner: NativeRunner):
    size = len(TEXT)
    counting = np.arange(size, dtype=np.int32)
    table = np.arange(math.ceil(size / runner.limits.block_size), dtype=np.int32)[None]
    step = Step(np.array(TEXT, np.int32), counting, np.array([0, size], np.int32), table, counting)
    logits = runner.run(step).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for position, told in enumerate(read(runner, NativeSampler(2))):
        assert told.chosen == pytest.approx(logprobs[position, TEXT[position + 1]], abs=1e-6)
        best = np.argsort(-logprobs[position], kind="stable")[:3]
        assert [i for i, _ in told.top] == best.tolist()
        assert [value for _, value in told.top] == pytest.approx(logprobs[position, best], abs=1e-6)


def test_company_changes_nothing(runner: NativeRunner):
    told = read(runner, NativeSampler(2))
    plain = SamplingParams(max_tokens=40, temperature=0.0)
    asked = SamplingParams(max_tokens=20, temperature=0.0, prompt_logprobs=3)
    results = run(runner, [plain, asked, plain, asked, plain], NativeSampler(2))
    for index in (1, 3):
        assert results[index][0].prompt_logprobs == told[:79]
