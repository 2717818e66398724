"""States of recurrent layers: which slots steps read and write, what is found again, and what is not."""

from __future__ import annotations

import pytest
from driving import Driver, limits, request

from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.scheduler import Scheduler

SYSTEM = list(range(40))  # ten blocks


def driver(num_states: int = 16, max_step_tokens: int = 32, **more: int) -> Driver:
    its_limits = limits(num_states=num_states, max_step_tokens=max_step_tokens, **more)
    return Driver(its_limits, EngineOptions(max_concurrency=4), random=True)


def answer(its_driver: Driver, name: str, prompt: list[int], max_tokens: int = 6) -> tuple[list[int], int]:
    """The tokens of an answer, and how many of the prompt's came from the cache."""
    its_driver.core.submit(request(name, prompt, max_tokens, ignore_eos=True))
    its_driver.run()
    return its_driver.tokens(name), its_driver.of(name)[-1].num_cached_tokens


def test_a_prompt_is_found_up_to_the_last_block_that_may_be() -> None:
    its_driver = driver()
    first, cached = answer(its_driver, "a", list(range(23)))
    assert cached == 0
    again, cached = answer(its_driver, "b", list(range(23)))
    assert (again, cached) == (first, 20)
    _, cached = answer(its_driver, "c", list(range(20)))
    assert cached == 0, "the last token must be computed, and there is no snapshot before it"


def test_the_next_turn_goes_on_behind_the_answer() -> None:
    its_driver = driver()
    said, _ = answer(its_driver, "a", list(range(23)), max_tokens=12)
    _, cached = answer(its_driver, "b", [*range(23), *said, 1, 2, 3])
    assert cached == 32, "34 of its tokens are computed, which is 8 blocks"


def test_an_answer_leaves_one_snapshot_however_long_it_is() -> None:
    its_driver = driver()
    answer(its_driver, "a", list(range(23)), max_tokens=60)
    states = its_driver.core.scheduler.states
    assert states is not None
    assert len(states.pool._found) == 2, "the prompt's, and its own"


def test_what_prompts_share_is_found_from_the_third_on() -> None:
    its_driver = driver()
    found = [answer(its_driver, f"r{i}", [*SYSTEM, 200 + i, *range(i, 20)])[1] for i in range(4)]
    assert found == [0, 0, 40, 40]


def test_others_with_the_same_prompt_wait_for_the_first() -> None:
    its_driver = driver(max_step_tokens=8)
    for i in range(4):
        its_driver.core.submit(request(f"r{i}", list(range(30)), 6, ignore_eos=True))
    its_driver.run()
    assert its_driver.runner.num_tokens == 30 + 3 * 2 + 4 * 5, "28 tokens are computed once"
    assert len({tuple(its_driver.tokens(f"r{i}")) for i in range(4)}) == 1


def test_others_that_differ_before_the_snapshot_do_not_wait() -> None:
    its_driver = driver(max_step_tokens=64)
    for i in range(2):
        its_driver.core.submit(request(f"r{i}", [*range(20), 100 + i, *range(5)], 6, ignore_eos=True))
    its_driver.step()
    assert its_driver.runner.num_tokens == 52


def test_old_snapshots_give_way_to_new_ones() -> None:
    its_driver = driver(num_states=8)
    for i in range(9):
        answer(its_driver, f"r{i}", [100 + i] * 12)
    assert answer(its_driver, "old", [100] * 12)[1] == 0
    assert answer(its_driver, "new", [108] * 12)[1] == 8


@pytest.mark.parametrize("num_states", [1, 2])
def test_the_fewest_slots_will_do(num_states: int) -> None:
    its_driver = driver(num_states=num_states)
    plain = Driver(limits(), EngineOptions(speculation="off"), random=True)
    prompts = [list(range(i, 30)) for i in range(3)]
    for i, prompt in enumerate(prompts):
        its_driver.core.submit(request(f"r{i}", prompt, 9, ignore_eos=True))
    its_driver.run()
    for i, prompt in enumerate(prompts):
        assert its_driver.tokens(f"r{i}") == answer(plain, f"r{i}", prompt, 9)[0]


def test_whoever_gives_way_goes_on_from_its_last_block() -> None:
    its_driver = driver(num_blocks=16)
    for i in range(3):
        its_driver.core.submit(request(f"r{i}", [i] * 14, 30, ignore_eos=True))
    its_driver.run()
    stats = its_driver.core.stats("fake")
    assert stats.num_preemptions > 0
    computed = its_driver.runner.num_tokens
    assert computed < 3 * 43 + 44 * stats.num_preemptions, "not all of it again, each time"


def test_half_of_the_slots_are_for_running_sequences() -> None:
    for num_states, running in ((1, 1), (2, 1), (6, 3), (40, 4)):
        assert Scheduler(limits(num_states=num_states), 4).max_running == running


def test_drafts_and_states_do_not_go_together() -> None:
    assert not driver().core.scheduler.speculates


def test_a_block_that_goes_behind_the_end_that_was_remembered_is_computed_again() -> None:
    its_driver = driver()
    first, _ = answer(its_driver, "a", list(range(23)))
    core = its_driver.core
    core.submit(request("b", list(range(23)), 6, ignore_eos=True))
    core._drain_inbox()
    (sequence,) = core.scheduler.waiting
    assert core.scheduler.prefixes.num_remaining(sequence) == 3
    core.scheduler.pool.discard(sequence.digests[1])
    its_driver.run()
    assert its_driver.tokens("b") == first
    assert its_driver.of("b")[-1].num_cached_tokens == 0, "the one snapshot is behind the block that is gone"
