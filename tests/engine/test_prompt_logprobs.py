"""Log-probabilities of a prompt's own tokens: the same however the prompt is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from driving import Driver, limits, request

from llm_serving.backends.fake import EOS_ID, FakeRunner
from llm_serving.engine import prompt_logprobs
from llm_serving.engine.budget import StepCosts
from llm_serving.engine.protocol import EngineOptions, Step
from llm_serving.engine.request import FinishReason, TokenLogprobs
from llm_serving.engine.sampler import NumpySampler
from llm_serving.errors import InvalidRequest

pytestmark = pytest.mark.slow

PROMPT = [(7 * i + i * i) % 256 for i in range(45)]


def expected(prompt: list[int], count: int = 0, **behaviour: object) -> tuple[TokenLogprobs, ...]:
    """Straight from the runner's logits, the prompt in one step."""
    size = len(prompt)
    runner = FakeRunner(limits(1, 256, 256, 1, 256), **{"random": True, **behaviour})
    starts = np.array([0, size], np.int32)
    counting = np.arange(size, dtype=np.int32)
    step = Step(np.array(prompt, np.int32), counting, starts, np.zeros((1, 1), np.int32), counting[:-1])
    return tuple(NumpySampler().logprobs(runner.run(step), prompt[1:], [count] * (size - 1)))


def found(driver: Driver, name: str) -> tuple[TokenLogprobs, ...] | None:
    """Told once, with the first event."""
    first, *others = driver.of(name)
    assert [event.prompt_logprobs for event in others] == [None] * len(others)
    return first.prompt_logprobs


def watch_rows(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many logits each step computes."""
    rows: list[int] = []
    run = driver.runner.run

    def watched(step: Step) -> np.ndarray:
        rows.append(len(step.logit_rows))
        return run(step)

    monkeypatch.setattr(driver.runner, "run", watched)
    return rows


@pytest.mark.parametrize("max_step_tokens", [1, 2, 3, 7, 16, 45, 64])
@pytest.mark.parametrize("block_size", [1, 4, 64])
def test_steps_and_blocks_do_not_matter(max_step_tokens: int, block_size: int):
    driver = Driver(limits(128, block_size, max_step_tokens), random=True)
    driver.core.submit(request("a", PROMPT, max_tokens=3, prompt_logprobs=2))
    driver.run()
    assert found(driver, "a") == expected(PROMPT, 2)
    plain = Driver(random=True)
    plain.core.submit(request("a", PROMPT, max_tokens=3))
    plain.run()
    assert driver.tokens("a") == plain.tokens("a")
    assert found(plain, "a") is None


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_short_prompts(size: int):
    driver = Driver(random=True)
    driver.core.submit(request("a", PROMPT[:size], max_tokens=1, prompt_logprobs=0))
    driver.run()
    assert found(driver, "a") == (expected(PROMPT[:size]) if size > 1 else ())


@pytest.mark.parametrize("size", [1, 8, 45])
@pytest.mark.parametrize("count", [None, 1])
def test_nothing_is_generated_if_only_the_prompt_is_asked_about(size: int, count: int | None):
    driver = Driver(random=True)
    driver.core.submit(request("a", PROMPT[:size], max_tokens=0, prompt_logprobs=count, top_logprobs=count))
    driver.run()
    (event,) = driver.of("a")
    assert (event.token_ids, event.text, event.logprobs) == ((), "", None)
    assert (event.finish_reason, event.num_prompt_tokens) == (FinishReason.LENGTH, size)
    assert event.num_completion_tokens == 0
    assert event.timings.finished_s >= event.timings.first_token_s >= event.timings.scheduled_s > 0
    if count is not None and size > 1:
        assert event.prompt_logprobs == expected(PROMPT[:size], 1)
    stats = driver.core.stats("fake")
    assert (stats.num_generated_tokens, stats.num_running, stats.num_free_blocks) == (0, 0, 64)


def test_the_token_that_ends_the_answer_is_told_as_well():
    """Or who takes the last for the only generated one, as harnesses do, would lose one of the prompt."""
    for count, is_told in ((None, False), (1, True)):
        driver = Driver(always_eos=True)
        driver.core.submit(request("a", PROMPT, max_tokens=1, top_logprobs=1, prompt_logprobs=count))
        driver.run()
        (event,) = driver.of("a")
        assert (event.token_ids, event.finish_reason) == ((EOS_ID,), FinishReason.STOP)
        assert (event.logprobs is not None) == is_told
    assert event.logprobs is not None
    assert event.logprobs.top == ((EOS_ID, event.logprobs.chosen),)


def test_the_cache_is_not_asked_and_others_find_what_was_computed():
    driver = Driver(random=True)
    for name, count, cached in (("plain", None, 0), ("a", 1, 0), ("b", 1, 0), ("after", None, 44)):
        driver.core.submit(request(name, PROMPT, max_tokens=2, prompt_logprobs=count))
        driver.run()
        assert driver.of(name)[-1].num_cached_tokens == cached
    assert found(driver, "a") == found(driver, "b") == expected(PROMPT, 1)
    fresh = Driver(random=True)
    for name, count, cached in (("a", 1, 0), ("after", None, 44)):
        fresh.core.submit(request(name, PROMPT, max_tokens=2, prompt_logprobs=count))
        fresh.run()
        assert fresh.of(name)[-1].num_cached_tokens == cached
    assert fresh.tokens("after") == driver.tokens("plain")


def test_equal_prompts_at_once():
    """Some share what one computes, some compute it all; the sharing ones may even be first."""
    driver = Driver(limits(256, max_step_tokens=16), random=True)
    for number in range(6):
        count = number % 3 if number % 2 else None
        driver.core.submit(request(f"r{number}", PROMPT, max_tokens=4, prompt_logprobs=count))
    driver.run()
    assert len({tuple(driver.tokens(f"r{number}")) for number in range(6)}) == 1
    for number in range(6):
        assert found(driver, f"r{number}") == (expected(PROMPT, number % 3) if number % 2 else None)


@pytest.mark.parametrize("num_steps", range(2, 14))
def test_restarts_go_on_where_they_were(num_steps: int):
    driver = Driver(limits(64, 4, 6), random=True)
    driver.core.submit(request("a", PROMPT, max_tokens=3, prompt_logprobs=1))
    for _ in range(num_steps):
        driver.step()
    scheduler = driver.core.scheduler
    if scheduler.running:
        (sequence,) = scheduler.running
        num_known = len(sequence.prompt_logprobs)
        scheduler.preempt(sequence)
        before = driver.runner.num_tokens
        driver.run()
        # Of what is known, only the part of a block is computed again, or all that others have evicted.
        assert driver.runner.num_tokens - before <= len(PROMPT) + 3 - num_known + 4
    driver.run()
    assert found(driver, "a") == expected(PROMPT, 1)
    plain = Driver(random=True)
    plain.core.submit(request("a", PROMPT, max_tokens=3))
    plain.run()
    assert driver.tokens("a") == plain.tokens("a")


def test_who_has_to_give_way_tells_the_same():
    driver = Driver(limits(14, 4, 8, max_context=56), random=True)
    driver.core.submit(request("old", list(range(20)), max_tokens=30, ignore_eos=True))
    for _ in range(4):
        driver.step()
    driver.core.submit(request("young", PROMPT[:25], max_tokens=6, ignore_eos=True, prompt_logprobs=3))
    driver.run()
    assert driver.core.stats("fake").num_preemptions > 0
    assert found(driver, "young") == expected(PROMPT[:25], 3)


@pytest.mark.parametrize("num_steps", range(7))
def test_abort_in_the_middle(num_steps: int):
    driver = Driver(limits(64, 4, 8), random=True)
    driver.core.submit(request("left", PROMPT, max_tokens=0, prompt_logprobs=1))
    driver.core.submit(request("stays", PROMPT, max_tokens=5, prompt_logprobs=1))
    for _ in range(num_steps):
        driver.step()
    driver.core.abort("left")
    driver.run()
    assert driver.of("left")[-1].finish_reason in (FinishReason.ABORT, FinishReason.LENGTH)
    assert found(driver, "stays") == expected(PROMPT, 1)
    assert driver.core.scheduler.pool.num_free == 64
    assert driver.core.scheduler.pool.num_claims == 0


def test_logits_of_a_step_are_bounded(monkeypatch: pytest.MonkeyPatch):
    long = [i * i % 256 for i in range(150)]
    driver = Driver(limits(400, 4, 256, 8, 200), random=True)
    rows = watch_rows(driver, monkeypatch)
    for number in range(6):
        driver.core.submit(request(f"r{number}", long, max_tokens=2, prompt_logprobs=0))
    driver.core.submit(request("plain", long[::-1], max_tokens=2))
    driver.run()
    assert max(rows) <= prompt_logprobs.MOST_ROWS + 8
    assert len(rows) < 6 * 150 / prompt_logprobs.MOST_ROWS + 8
    for number in range(6):
        assert found(driver, f"r{number}") == expected(long)


def test_a_prompt_that_is_read_beside_it_is_not_held_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llm_serving.engine.scheduler.MOST_ROWS", 2)
    driver = Driver(limits(max_step_tokens=60), random=True)
    for name, prompt, count in (("a", PROMPT, 0), ("b", PROMPT[::-1], 0), ("plain", PROMPT[1:], None)):
        driver.core.submit(request(name, prompt, max_tokens=1, prompt_logprobs=count))
    driver.step()
    assert [event.request_id for event in driver.events] == ["plain"]
    driver.run()
    assert found(driver, "b") == expected(PROMPT[::-1])


def test_beside_decoding_a_scored_token_counts_as_what_it_costs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(StepCosts, "row_tokens", 3.0)
    driver = Driver(prefill_budget=12, random=True)
    driver.core.submit(request("decoding", [1, 2, 3], max_tokens=60, ignore_eos=True))
    driver.step()
    rows = watch_rows(driver, monkeypatch)
    driver.core.submit(request("a", PROMPT, max_tokens=0, prompt_logprobs=0))
    for _ in range(3):
        driver.step()
    assert rows == [1 + 4] * 3
    driver.run()
    assert found(driver, "a") == expected(PROMPT)


def test_what_a_row_costs_is_learnt():
    costs = StepCosts()
    for step in range(400):
        num_rows, num_tokens = step % 7, 11 * (step % 5)
        costs.observe(num_rows, num_tokens, 5e-3 + num_rows * 6e-4 + (num_rows + num_tokens) * 2e-4)
    assert costs.row_tokens == pytest.approx(4.0, rel=0.1)


def test_a_runner_that_knows_only_the_last_logits_refuses():
    driver = Driver(replace(limits(), has_all_logits=False))
    with pytest.raises(InvalidRequest) as caught:
        driver.core.submit(request("a", PROMPT, prompt_logprobs=0))
    assert caught.value.param == "echo"
    assert driver.core.stats("fake").num_waiting == 0
    driver.core.submit(request("a", PROMPT, max_tokens=0))
    driver.run()
    assert driver.of("a")[-1].finish_reason is FinishReason.LENGTH


def test_broken_logits_still_have_numbers(monkeypatch: pytest.MonkeyPatch):
    driver = Driver(options=EngineOptions(), random=True)
    run = driver.runner.run

    def broken(step: Step) -> np.ndarray:
        logits = run(step)
        logits[::2], logits[1::2] = np.nan, np.inf
        return logits

    monkeypatch.setattr(driver.runner, "run", broken)
    driver.core.submit(request("a", PROMPT, max_tokens=0, prompt_logprobs=2))
    driver.run()
    told = found(driver, "a")
    assert told is not None
    assert len(told) == 44
    assert all(-9999.0 <= each.chosen <= 0.0 for each in told)
