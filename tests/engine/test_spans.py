"""Pictures whose rows see each other all: in one step or not begun, whatever budgets and shortages say."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from driving import Driver, limits, picture, request

from llm_serving.blockstore.store import DiskBlockStore
from llm_serving.engine.protocol import EngineOptions, RunnerLimits
from llm_serving.engine.request import GenerateRequest, GivenRows
from llm_serving.engine.spans import whole_blocks, whole_tokens
from llm_serving.errors import InvalidRequest

SPAN = 10
PROMPT = [7] * 44


def spanning(**changes: int) -> RunnerLimits:
    return replace(limits(**changes), given_span=SPAN)


def seeing(name: str, *given: GivenRows, prompt: list[int] = PROMPT, max_tokens: int = 6) -> GenerateRequest:
    return replace(request(name, prompt, max_tokens=max_tokens, ignore_eos=True), given=given)


def answer(its_request: GenerateRequest, **changes: int) -> list[int]:
    driver = Driver(spanning(**{"max_step_tokens": 64, "block_size": 16, **changes}), random=True)
    driver.core.submit(its_request)
    driver.run()
    return driver.tokens(its_request.request_id)


TWO = (picture(5, 1, 9), picture(21, 2, SPAN))
SIDE_BY_SIDE = (picture(3, 1, 8), picture(11, 2, 8), picture(34, 3, SPAN))


def test_what_is_taken_of_tokens() -> None:
    spans = [picture(5, 1, 9), picture(14, 2, 4)]
    assert [whole_tokens(spans, 0, count, 64) for count in (4, 5, 6, 13, 14, 15, 18, 20)] == [
        4, 5, 5, 5, 14, 14, 18, 20
    ]  # fmt: skip
    assert [whole_tokens(spans, 5, count, 64) for count in (0, 1, 8, 9, 10)] == [0, 9, 9, 9, 9]
    assert whole_tokens(spans, 5, 1, 8) == 0
    assert whole_tokens(spans, 20, 7, 64) == 7


def test_what_is_taken_of_blocks() -> None:
    spans = [picture(5, 1, 9), picture(14, 2, 8)]
    assert [whole_blocks(spans, count, 4) for count in range(8)] == [0, 1, 1, 1, 1, 1, 6, 7]


def test_who_is_seen_changes_the_answer() -> None:
    blind = Driver(limits(max_step_tokens=64), random=True)
    blind.core.submit(seeing("r", *TWO))
    blind.run()
    assert blind.tokens("r") != answer(seeing("r", *TWO))


@pytest.mark.parametrize("given", [TWO, SIDE_BY_SIDE])
@pytest.mark.parametrize("max_step_tokens", [10, 11, 13, 17, 23])
def test_any_cut_into_steps_is_the_same(given: tuple[GivenRows, ...], max_step_tokens: int) -> None:
    whole = seeing("r", *given)
    for block_size in (1, 4, 16):
        assert answer(whole, max_step_tokens=max_step_tokens, block_size=block_size) == answer(whole)


@pytest.mark.parametrize("budget", [1, 3, 8])
def test_beside_others_a_span_is_taken_whole(budget: int) -> None:
    options = EngineOptions(speculation="off")
    driver = Driver(spanning(max_step_tokens=16), options, prefill_budget=budget, random=True)
    driver.core.submit(seeing("chat", max_tokens=60, prompt=[5, 6]))
    driver.step()
    driver.core.submit(seeing("r", *TWO))
    steps = []
    while len(driver.of("r")) == 0:
        before = driver.runner.num_tokens
        driver.step()
        steps.append(driver.runner.num_tokens - before - 1)
    assert sorted(steps)[-2:] == [9, SPAN]
    assert all(step <= budget for step in steps if step not in (9, SPAN)), "one span a step at most"
    driver.run()
    assert driver.tokens("r") == answer(seeing("r", *TWO))


def test_as_many_run_as_leave_room_for_a_span() -> None:
    driver = Driver(
        spanning(max_step_tokens=12), EngineOptions(max_concurrency=8), prefill_budget=4, random=True
    )
    asked = [seeing(f"r{i}", picture(2, i, SPAN), prompt=[7] * 14, max_tokens=30) for i in range(6)]
    assert driver.core.scheduler.max_running == 3
    for each in asked:
        driver.core.submit(each)
    driver.run()
    assert all(driver.tokens(each.request_id) == answer(each) for each in asked)


def test_hits_end_in_no_span() -> None:
    driver = Driver(spanning(), random=True)
    for name in ("first", "same"):
        driver.core.submit(seeing(name, *TWO))
        driver.run()
        assert driver.tokens(name) == answer(seeing(name, *TWO))
    # The same up to the middle of the second picture's blocks, where the prompt ends.
    for name, length in (("ends", 31), ("ends in its text", 33)):
        short = seeing(name, *TWO, prompt=PROMPT[:length])
        driver.core.submit(short)
        driver.run()
        assert driver.tokens(name) == answer(short)
    cached = [driver.of(name)[-1].num_cached_tokens for name in ("first", "same", "ends", "ends in its text")]
    assert cached == [0, 40, 20, 32], "blocks of four; the second picture is 21 to 31"


def test_who_comes_together_computes_once() -> None:
    driver = Driver(spanning(max_step_tokens=16), random=True)
    for i in range(3):
        driver.core.submit(seeing(f"r{i}", *TWO))
    driver.run()
    assert {tuple(driver.tokens(f"r{i}")) for i in range(3)} == {tuple(answer(seeing("r", *TWO)))}
    assert [driver.of(f"r{i}")[-1].num_cached_tokens for i in range(3)] == [0, 40, 40]


def test_who_gives_way_sees_its_picture_again() -> None:
    driver = Driver(spanning(num_blocks=30), EngineOptions(max_concurrency=3), random=True)
    asked = [seeing(f"r{i}", picture(i, i, SPAN), picture(20 + i, 9, 7), max_tokens=25) for i in range(3)]
    for each in asked:
        driver.core.submit(each)
    driver.run()
    assert driver.core.stats("fake").num_preemptions > 0
    for each in asked:
        assert driver.tokens(each.request_id) == answer(each)


def test_spans_come_back_from_disk(tmp_path: Path) -> None:
    def engine(num_blocks: int = 64) -> Driver:
        driver_limits = spanning(num_blocks=num_blocks)
        store = DiskBlockStore(tmp_path, 1 << 20, b"the fake model 1", 32)
        return Driver(driver_limits, store=store, random=True)

    for name in ("first", "again"):
        driver = engine()
        driver.core.submit(seeing(name, *TWO))
        driver.run()
        driver.core.close()
        assert driver.tokens(name) == answer(seeing(name, *TWO))
    assert driver.of("again")[-1].num_cached_tokens == 40


def test_too_long_a_span_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="do not fit"):
        Driver(spanning()).core.submit(seeing("r", picture(0, 1, SPAN + 1)))


def test_prompts_with_spans_are_not_scored() -> None:
    scored = request("r", PROMPT, prompt_logprobs=2)
    Driver(spanning()).core.submit(scored)
    with pytest.raises(InvalidRequest, match="no log-probabilities"):
        Driver(spanning()).core.submit(replace(scored, given=TWO))


@pytest.mark.parametrize("seed", range(40))
def test_random_company(seed: int, tmp_path: Path) -> None:
    """Few prefixes, small pools, budgets that end anywhere, also in what a disk holds.

    The fake runner refuses a span that is cut.
    """
    rng = random.Random(seed)
    block_size = rng.choice([1, 2, 4, 8])
    num_blocks = -(-60 // block_size) * rng.choice([1, 2, 3]) + rng.randrange(3)
    driver = Driver(
        spanning(
            num_blocks=num_blocks,
            block_size=block_size,
            max_step_tokens=rng.choice([10, 16, 32]),
            max_context=60,
        ),
        EngineOptions(max_concurrency=rng.choice([1, 3, 6]), max_queue=40),
        prefill_budget=rng.choice([None, 1, 4, 12]),
        store=DiskBlockStore(tmp_path, 1 << 14, b"the fake model 1", 8 * block_size) if seed % 2 else None,
        random=True,
    )
    asked = []
    for number in range(12):
        starts = sorted(rng.sample([0, 10, 21, 33], rng.randrange(4)))
        given = tuple(picture(start, rng.randrange(2), rng.choice([3, 7, SPAN])) for start in starts)
        length = rng.randrange(max([5, *(each.end for each in given)]), 50)
        asked.append(seeing(f"r{number}", *given, prompt=[7] * length, max_tokens=rng.randrange(1, 9)))
        driver.core.submit(asked[-1])
        for _ in range(rng.randrange(4)):
            driver.step()
    driver.run()
    for each in asked:
        assert driver.tokens(each.request_id) == answer(each)
    assert driver.core.scheduler.pool.num_claims == 0
    driver.core.close()
