"""Drafts on the real kernels: rejected ones leave nothing behind, and answers stay equal bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tiny_models import write_tiny_llama

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.engine.core import EngineCore
from llm_serving.engine.protocol import EngineOptions, EngineStats
from llm_serving.engine.request import GenerateRequest, SamplingParams, TokenEvent
from llm_serving.engine.sampler import NumpySampler
from llm_serving.native.runner import NativeRunner

pytestmark = pytest.mark.slow

Model = tuple[NativeRunner, list[bytes]]


@pytest.fixture(scope="module", params=["q16", "q8", "q4"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", vocab=516)
    checkpoint = open_checkpoint(path)
    runner = build_runner(checkpoint, EngineOptions(threads=2, max_concurrency=4, kv_cache=request.param))
    yield runner, build_tokenizer(checkpoint).token_bytes
    runner.close()


def run(
    model: Model, requests: list[GenerateRequest], speculation: str
) -> tuple[dict[str, list[int]], EngineStats]:
    events: list[TokenEvent] = []
    runner, token_bytes = model
    options = EngineOptions(max_concurrency=2, speculation=speculation)
    core = EngineCore(runner, NumpySampler(), token_bytes, options, events.extend, print)
    for a_request in requests:
        core.submit(a_request)
    events += core.step()
    while core.scheduler.has_work:
        events += core.step()
        core.scheduler.check_integrity()
    tokens: dict[str, list[int]] = {}
    for event in events:
        tokens.setdefault(event.request_id, []).extend(event.token_ids)
    return tokens, core.stats("x")


@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "repetition_penalty": 1.1, "frequency_penalty": 0.1},
        {"temperature": 0.2, "seed": 5},
        {"temperature": 0.3, "seed": 6, "presence_penalty": 0.2, "top_k": 20},
    ],
    ids=["greedy", "greedy penalties", "sampled", "sampled penalties"],
)
def test_tokens_are_equal(model: Model, sampling: dict[str, float], seed: int):
    rng = random.Random(seed)
    piece = [rng.randrange(300) for _ in range(7)]
    prompts = [piece * 4, [rng.randrange(300) for _ in range(20)]]
    params = SamplingParams(max_tokens=45, **sampling)  # type: ignore[arg-type]
    requests = [GenerateRequest(f"r{i}", prompt, params) for i, prompt in enumerate(prompts)]
    plain, _ = run(model, requests, "off")
    guessed, stats = run(model, requests, "auto")
    assert guessed == plain
    assert len(guessed["r0"]) == len(guessed["r1"]) == 45
    assert stats.num_drafted_tokens > 0
