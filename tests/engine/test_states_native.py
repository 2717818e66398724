"""Snapshots on the real kernels: answers that go on from them are those of an engine that has none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_lfm2 import write_tiny_lfm2
from tiny_qwen35 import write_tiny_qwen35
from tiny_states import write_tiny_states

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.engine.core import EngineCore
from llm_serving.engine.protocol import EngineOptions, EngineStats
from llm_serving.engine.request import GenerateRequest, SamplingParams, TokenEvent
from llm_serving.engine.sampler import NumpySampler
from llm_serving.native.runner import NativeRunner

pytestmark = pytest.mark.slow

Model = tuple[NativeRunner, list[bytes]]


def write_without_keys(path: Path) -> Path:
    """No layer keeps keys and values: a block stands for nothing but its tokens."""
    return write_tiny_states(path, "mamba", context=256)


@pytest.fixture(scope="module", params=[write_tiny_lfm2, write_tiny_qwen35, write_without_keys])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    checkpoint = open_checkpoint(request.param(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))
    runner = build_runner(checkpoint, EngineOptions(threads=2, max_concurrency=4))
    yield runner, build_tokenizer(checkpoint).token_bytes
    runner.close()


class Engine:
    """An engine of its own over the runner: what others left in its memory is not found."""

    def __init__(self, model: Model) -> None:
        runner, token_bytes = model
        self.events: list[TokenEvent] = []
        options = EngineOptions(max_concurrency=4)
        self.core = EngineCore(runner, NumpySampler(), token_bytes, options, self.events.extend, print)

    def answers(self, requests: list[GenerateRequest]) -> list[list[int]]:
        """Their tokens, of all that are sent at once."""
        for a_request in requests:
            self.core.submit(a_request)
        while not self.events or self.core.scheduler.has_work:
            self.events += self.core.step()
            self.core.scheduler.check_integrity()
        found = [
            [t for e in self.events if e.request_id == r.request_id for t in e.token_ids] for r in requests
        ]
        self.events.clear()
        return found

    def stats(self) -> EngineStats:
        return self.core.stats("x")


def ask(name: str, prompt: list[int], max_tokens: int = 30) -> GenerateRequest:
    return GenerateRequest(name, prompt, SamplingParams(max_tokens=max_tokens, temperature=0.0))


def test_a_conversation_goes_on_from_its_answers(model: Model) -> None:
    rng, engine, prompt = random.Random(1), Engine(model), []
    for turn in range(4):
        prompt = prompt + [rng.randrange(290) for _ in range(23)]
        cached = engine.stats().num_cached_tokens
        said = engine.answers([ask(f"r{turn}", prompt)])[0]
        assert [said] == Engine(model).answers([ask("r", prompt)])
        new = engine.stats().num_cached_tokens - cached
        assert new == (16 * ((len(prompt) - 24) // 16) if turn else 0), "all but the last token's block"
        prompt = prompt + said


@pytest.mark.parametrize("seed", range(3))
def test_many_with_the_same_beginning(model: Model, seed: int) -> None:
    rng, engine = random.Random(seed), Engine(model)
    system = [rng.randrange(290) for _ in range(50)]
    prompts = [system + [rng.randrange(290) for _ in range(rng.randrange(1, 40))] for _ in range(8)]
    found = engine.answers([ask(f"r{i}", prompt) for i, prompt in enumerate(prompts)])
    assert found == [Engine(model).answers([ask("r", prompt)])[0] for prompt in prompts]
    assert engine.stats().num_cached_tokens >= 3 * 48, "those behind the first four"


def test_the_same_prompt_at_once(model: Model) -> None:
    engine, prompt = Engine(model), list(range(70))
    found = engine.answers([ask(f"r{i}", prompt) for i in range(4)])
    assert found == 4 * Engine(model).answers([ask("r", prompt)])
    assert engine.stats().num_cached_tokens == 3 * 64
