"""Submit, abort, finish, evict and preempt at random on small pools; nothing leaks, nobody's text changes."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from driving import Driver, alone, limits, picture, request

from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.request import FinishReason, GenerateRequest, GivenRows
from llm_serving.errors import Overloaded

pytestmark = pytest.mark.slow

# The second says what can be guessed, but for those who sample at a temperature of 6.
BEHAVIOURS: list[dict[str, object]] = [{"random": True}, {"reply": "so it goes, so it goes, and so on, so"}]


def a_request(rng: random.Random, number: int, max_context: int) -> GenerateRequest:
    """Prompts are made of few pieces, so that they share prefixes."""
    pieces = [[piece * 16 + i for i in range(6)] for piece in range(3)]
    prompt = [token for _ in range(rng.randrange(1, 5)) for token in rng.choice(pieces)]
    prompt = prompt[: rng.randrange(1, max_context - 1)]
    sampling = rng.choice(
        [{}, {"temperature": 6.0, "seed": number}, {"temperature": 0.8, "top_k": 20, "seed": 1}]
    )
    plain = request(
        f"r{number}",
        prompt,
        max_tokens=rng.choice([0, *range(1, 30)]),
        ignore_eos=rng.random() < 0.5,
        stop=rng.choice([(), ("a", "\x00")]),
        prompt_logprobs=rng.choice([None, None, 0, 2]),
        **sampling,
    )
    given = pictures(prompt, number)
    return replace(
        plain, priority=rng.choice([0, 0, 1, -7]), fairness_key=rng.choice(["", "a", "b"]), given=given
    )


def pictures(prompt: list[int], number: int) -> tuple[GivenRows, ...]:
    """Every other request has one of two pictures where the last of the pieces begins."""
    starts = [i for i, token in enumerate(prompt) if token == 32] if number % 2 else []
    return tuple(picture(i, number % 4, min(6, len(prompt) - i)) for i in starts)


@pytest.mark.parametrize("num_states", [0, 1, 3, 16])
@pytest.mark.parametrize("seed", range(6))
def test_random_walk(seed: int, num_states: int):
    rng = random.Random(seed)
    behaviour = BEHAVIOURS[seed % 2]
    max_context = rng.choice([24, 40])
    block_size = rng.choice([1, 2, 4, 8])
    num_blocks = -(-max_context // block_size) * rng.choice([1, 2, 4]) + rng.randrange(3)
    max_step_tokens = rng.choice([3, 8, 32])
    runner_limits = limits(num_blocks, block_size, max_step_tokens, 6, max_context, num_states=num_states)
    options = EngineOptions(max_concurrency=rng.choice([1, 3, 6]), max_queue=5)
    driver = Driver(runner_limits, options, prefill_budget=rng.choice([None, 1, 4, 16]), **behaviour)
    accepted: dict[str, GenerateRequest] = {}
    aborted: set[str] = set()
    for _ in range(90):
        action = rng.random()
        if action < 0.35:
            new = a_request(rng, len(accepted), driver.core.max_context)
            try:
                driver.core.submit(new)
            except Overloaded:
                continue
            accepted[new.request_id] = new
        elif action < 0.42 and accepted:
            name = rng.choice(list(accepted))
            driver.core.abort(name)
            aborted.add(name)
        else:
            driver.step()
    driver.run()
    stats = driver.core.stats("fake")
    assert (stats.num_running, stats.num_waiting, stats.num_free_blocks) == (0, 0, num_blocks)
    assert driver.core.scheduler.pool.num_claims == 0
    for name, its_request in accepted.items():
        events = driver.of(name)
        assert [event.finish_reason is not None for event in events] == [False] * (len(events) - 1) + [True]
        alone_driver = drive_alone(its_request, max_context, behaviour)
        tokens, expected = driver.tokens(name), alone_driver.tokens(name)
        if events[-1].finish_reason is FinishReason.ABORT:
            assert name in aborted
            assert tokens == expected[: len(tokens)]
        else:
            assert tokens == expected
            assert events[-1].num_completion_tokens == len(tokens)
            assert events[0].prompt_logprobs == alone_driver.of(name)[0].prompt_logprobs
            assert (events[0].prompt_logprobs is None) == (its_request.sampling.prompt_logprobs is None)


@pytest.mark.parametrize("seed", range(4))
def test_nobody_starves_while_others_keep_coming(seed: int, monkeypatch: pytest.MonkeyPatch):
    """One key sends short prompts as fast as they are taken; another, and itself, now and then a long one."""
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    rng = random.Random(seed)
    driver = Driver(
        limits(24, 4, 16, 4, 64), EngineOptions(max_concurrency=3, max_queue=9), prefill_budget=4, random=True
    )
    arrived: dict[str, int] = {}
    started: dict[str, int] = {}
    for step in range(600):
        now_s += 0.05
        is_long = step % 60 == 30
        key = "a" if is_long and step % 120 == 30 else "b"
        prompt = [rng.randrange(256) for _ in range(50 if is_long else rng.randrange(1, 9))]
        new = replace(request(f"r{step}", prompt, max_tokens=6, ignore_eos=True), fairness_key=key)
        if is_long or len(arrived) - len(started) < 4:
            driver.core.submit(new)
            arrived[new.request_id] = step
        driver.step()
        for sequence in driver.core.scheduler.running:
            started.setdefault(sequence.request.request_id, step)
    assert len(arrived) > 100
    waits = [started.get(name, 600) - step for name, step in arrived.items() if step < 500]
    assert max(waits) < 90, "2 s are 40 steps, and those that come before it need some"
    driver.run()


def alone_at(
    its_request: GenerateRequest, max_context: int, behaviour: dict[str, object] = BEHAVIOURS[0]
) -> list[int]:
    """The tokens it gets in an engine of its own, without guesses."""
    return drive_alone(its_request, max_context, behaviour).tokens(its_request.request_id)


def drive_alone(its_request: GenerateRequest, max_context: int, behaviour: dict[str, object]) -> Driver:
    driver = Driver(
        limits(max_context=max_context, block_size=16, num_blocks=8, max_step_tokens=64),
        EngineOptions(speculation="off"),
        **behaviour,
    )
    driver.core.submit(its_request)
    driver.run()
    return driver


def test_the_walks_visit_every_kind_of_event():
    """Otherwise the test above proves less than it seems to."""
    preempted = cached = accepted = rejected = 0
    for seed in range(4):
        rng = random.Random(seed)
        driver = Driver(
            limits(8, 4, 16, 6, 32), EngineOptions(max_concurrency=6, max_queue=20), **BEHAVIOURS[seed % 2]
        )
        for number in range(20):
            driver.core.submit(a_request(rng, number, 20))
            if seed >= 2:  # few at once, who may guess
                driver.run()
        driver.run()
        stats = driver.core.stats("fake")
        preempted += stats.num_preemptions
        cached += stats.num_cached_tokens
        accepted += stats.num_accepted_tokens
        rejected += stats.num_drafted_tokens - stats.num_accepted_tokens
    assert preempted > 2
    assert cached > 15
    assert accepted > 10
    assert rejected > 2


def test_alone_is_what_a_plain_engine_gives():
    its_request = request("r", list(range(30)), max_tokens=20, ignore_eos=True)
    assert alone(its_request) == alone_at(its_request, 128)
