"""A draft model on the real kernels: answers stay equal bit for bit, and its own blocks stay right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from drafted import FixedCosts
from real_model import real_model_path
from tiny_models import write_tiny_llama

from llm_serving.backends.native_backend import build_draft_runner, build_runner
from llm_serving.backends.native_draft import check_vocabulary, open_draft
from llm_serving.checkpoints import Tokenizer, build_tokenizer, open_checkpoint
from llm_serving.engine.core import EngineCore
from llm_serving.engine.draft_model import DraftModel
from llm_serving.engine.protocol import EngineOptions, EngineStats
from llm_serving.engine.request import GenerateRequest, SamplingParams, TokenEvent
from llm_serving.native.runner import NativeRunner
from llm_serving.native.sampler import NativeSampler

pytestmark = pytest.mark.slow

OPTIONS = EngineOptions(threads=2, max_concurrency=4, context_length=512)
QUESTIONS = ("Why is the sky blue?", "Tell me a story of a lighthouse.", "Name three rivers of Europe.")
SAMPLINGS = (
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 5},
    {"temperature": 1.0, "seed": 6, "top_p": 0.9, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
)

Events = dict[str, list[TokenEvent]]


class Pair:
    """A large model, and drafts of several kinds; what is called slow are its steps, so that guesses pay."""

    def __init__(self, path: Path) -> None:
        checkpoint = open_checkpoint(path)
        self.tokenizer: Tokenizer = build_tokenizer(checkpoint)
        self.large = build_runner(checkpoint, OPTIONS)
        self.sampler = NativeSampler(2)

    def draft(self, path: Path, quantization: str = "auto") -> NativeRunner:
        options = replace(OPTIONS, draft_model=path, quantization=quantization)
        draft = open_draft(options)
        assert draft is not None
        check_vocabulary(draft, open_checkpoint(path), self.tokenizer.token_bytes)
        return build_draft_runner(draft, options, self.large)

    def answers(
        self, requests: list[GenerateRequest], small: NativeRunner | None = None
    ) -> tuple[Events, EngineStats]:
        model = None
        if small is not None:
            model = DraftModel(small, self.sampler, self.large.limits.vocab_size)
            model.costs = FixedCosts(0.04, 0.005, 0.005)
        options = replace(OPTIONS, speculation="auto" if model else "off")
        events: list[TokenEvent] = []
        core = EngineCore(
            self.large, self.sampler, self.tokenizer.token_bytes, options, print, print, draft_model=model
        )
        core.scheduler.drafting.budget.costs = FixedCosts(1.0, 0.01, 0.01)
        for each in requests:
            core.submit(each)
        core.step()
        while core.scheduler.has_work:
            events += core.step()
            core.scheduler.check_integrity()
        found: Events = {}
        for event in events:
            found.setdefault(event.request_id, []).append(replace(event, timings=None))  # type: ignore[arg-type]
        return found, core.stats("x")

    def request(self, name: str, prompt: str, tokens: int = 24, **sampling: object) -> GenerateRequest:
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        params = SamplingParams(tokens, **sampling)  # type: ignore[arg-type]
        return GenerateRequest(name, self.tokenizer.encode_prompt(text), params)


@pytest.fixture(scope="module")
def real() -> Iterator[Pair]:
    pair = Pair(real_model_path())
    yield pair
    pair.large.close()


@pytest.fixture(scope="module", params=SAMPLINGS, ids=["greedy", "sampled", "penalties"])
def asked(real: Pair, request: pytest.FixtureRequest) -> tuple[list[GenerateRequest], Events]:
    """Two requests, and what they get without a draft model, alone or not."""
    requests = [real.request(str(i), question, **request.param) for i, question in enumerate(QUESTIONS[:2])]
    return requests, real.answers(requests)[0]


@pytest.fixture(scope="module")
def itself(real: Pair) -> Iterator[NativeRunner]:
    runner = real.draft(real_model_path())
    yield runner
    runner.close()


def test_a_model_that_guesses_for_itself_is_always_right(
    real: Pair, itself: NativeRunner, asked: tuple[list[GenerateRequest], Events]
) -> None:
    requests, off = asked
    for some in (requests[:1], requests):
        on, stats = real.answers(some, itself)
        assert on == {each.request_id: off[each.request_id] for each in some}
        assert stats.num_drafted_tokens > 14 * len(some)
        assert stats.num_accepted_tokens == stats.num_drafted_tokens


@pytest.fixture(scope="module")
def coarser(real: Pair) -> Iterator[NativeRunner]:
    runner = real.draft(real_model_path(), "q4" if real.large.weight_bytes > 150e6 else "q8")
    yield runner
    runner.close()


def test_coarser_weights_are_often_right_and_no_answer_differs(
    real: Pair, coarser: NativeRunner, asked: tuple[list[GenerateRequest], Events]
) -> None:
    requests, off = asked
    on, stats = real.answers(requests, coarser)
    assert on == off
    assert stats.num_accepted_tokens > 0.3 * stats.num_drafted_tokens > 7


def test_three_are_left_alone_and_long_prompts_are_read(real: Pair, itself: NativeRunner) -> None:
    requests = [
        real.request(str(i), f"{question} " + "Be brief, please, as it is late. " * 30, 8 + 12 * i)
        for i, question in enumerate(QUESTIONS)
    ]
    off, _ = real.answers(requests)
    on, stats = real.answers(requests, itself)
    assert on == off
    assert stats.num_accepted_tokens > 0.8 * stats.num_drafted_tokens > 20


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled", "penalties"])
def test_random_weights_of_the_same_vocabulary(tmp_path: Path, sampling: dict[str, object]) -> None:
    pair = Pair(write_tiny_llama(tmp_path / "large.gguf", vocab=516, seed=1, layers=3, context=512))
    small = pair.draft(write_tiny_llama(tmp_path / "small.gguf", vocab=516, seed=2, layers=1, context=512))
    rng = random.Random(4)
    params = SamplingParams(60, **sampling)  # type: ignore[arg-type]
    requests = [
        GenerateRequest(name, [rng.randrange(300) for _ in range(length)], params)
        for name, length in (("a", 30), ("b", 90))
    ]
    off, _ = pair.answers(requests)
    on, stats = pair.answers(requests, small)
    assert on == off
    assert stats.num_drafted_tokens > 0


def test_what_was_guessed_wrong_leaves_nothing_behind(tmp_path: Path) -> None:
    """The same model guesses for itself once more, on blocks on which it was led astray before."""
    large = write_tiny_llama(tmp_path / "large.gguf", vocab=516, seed=1, layers=2, context=512)
    pair = Pair(large)
    small = pair.draft(large)
    model = DraftModel(small, pair.sampler, pair.large.limits.vocab_size)
    model.costs = FixedCosts(0.04, 0.005, 0.005)
    options = replace(OPTIONS, speculation="auto")
    core = EngineCore(
        pair.large, pair.sampler, pair.tokenizer.token_bytes, options, print, print, draft_model=model
    )
    core.scheduler.drafting.budget.costs = FixedCosts(1.0, 0.01, 0.01)
    rng = random.Random(8)
    ids = [rng.randrange(300) for _ in range(40)]
    for number in range(4):
        ids = [*ids[: 30 + 3 * number], rng.randrange(300)]  # another way on from within what was read
        params = SamplingParams(40, temperature=1.0, seed=number)
        core.submit(GenerateRequest(str(number), ids, params))
        before = core.stats("x")
        core.step()
        while core.scheduler.has_work:
            for event in core.step():
                ids = ids + list(event.token_ids)
        after = core.stats("x")
        drafted = after.num_drafted_tokens - before.num_drafted_tokens
        assert after.num_accepted_tokens - before.num_accepted_tokens == drafted > 20
