"""Who goes first: priorities, turns between keys, the shortest prompt, patience."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from functools import partial

import driving
import pytest
from driving import FixedBudget, request

from llm_serving.backends.fake import FakeTokenizer
from llm_serving.engine.detokenizer import Detokenizer
from llm_serving.engine.policy import PATIENCE_S
from llm_serving.engine.scheduler import Scheduler
from llm_serving.engine.sequence import Sequence

TOKEN_BYTES = FakeTokenizer().token_bytes
limits = partial(driving.limits, takes_drafts=False)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def add(
    scheduler: Scheduler, name: str, length: int, key: str = "", priority: int = 0, max_tokens: int = 1
) -> Sequence:
    rng = random.Random(name)
    prompt = [rng.randrange(256) for _ in range(length)]
    asked = replace(request(name, prompt, max_tokens), fairness_key=key, priority=priority)
    sequence = Sequence(asked, Detokenizer(TOKEN_BYTES), scheduler.max_context)
    scheduler.add(sequence)
    return sequence


def turn(scheduler: Scheduler) -> dict[str, int]:
    plan = scheduler.schedule()
    if plan is None:
        return {}
    for sequence in plan.sampled:
        sequence.advance(300)
    scheduler.commit(plan)
    for sequence in plan.sampled:
        if sequence.is_finished:
            scheduler.finish(sequence)
    scheduler.check_integrity()
    return {s.request.request_id: count for s, count in zip(plan.sequences, plan.counts, strict=True)}


def order(scheduler: Scheduler, max_turns: int = 1000) -> list[str]:
    """Everybody's names as they were first served."""
    names: dict[str, None] = {}
    for _ in range(max_turns):
        names.update(dict.fromkeys(turn(scheduler)))
        if not scheduler.has_work:
            return list(names)
    raise AssertionError("not finished")


@pytest.mark.usefixtures("clock")
def test_shortest_prompt_first_then_arrival():
    scheduler = Scheduler(limits(max_step_tokens=8), 8)
    for name, length in (("a", 30), ("b", 12), ("c", 20), ("d", 12)):
        add(scheduler, name, length)
    assert order(scheduler) == ["b", "d", "c", "a"]


@pytest.mark.usefixtures("clock")
def test_what_is_left_counts_not_the_length():
    scheduler = Scheduler(limits(max_step_tokens=8), 8)
    add(scheduler, "a", 30)
    assert turn(scheduler) == {"a": 8}
    add(scheduler, "b", 23)
    assert turn(scheduler) == {"a": 8}, "22 are left of it"
    add(scheduler, "c", 13)
    assert turn(scheduler) == {"c": 8}
    assert turn(scheduler) == {"c": 5, "a": 3}


@pytest.mark.usefixtures("clock")
def test_cached_blocks_do_not_count_and_evicted_ones_do_again():
    scheduler = Scheduler(limits(block_size=4, num_blocks=16, max_step_tokens=64, max_context=64), 1)
    first = add(scheduler, "a", 40)
    turn(scheduler)
    add(scheduler, "running", 1, max_tokens=3)
    turn(scheduler)
    again = Sequence(request("again", first.request.prompt_ids, 1), Detokenizer(TOKEN_BYTES), 64)
    scheduler.add(again)
    short = add(scheduler, "short", 12)
    assert scheduler.prefixes.num_remaining(again) == 4
    assert scheduler.prefixes.num_remaining(short) == 12
    held = [scheduler.pool.allocate() for _ in range(scheduler.pool.num_free - 4)]
    assert scheduler.prefixes.num_remaining(again) == 24
    scheduler.pool.release(held)
    assert order(scheduler) == ["running", "short", "again"]


def test_a_long_prompt_is_overtaken_for_so_long_and_no_longer(clock: Clock):
    scheduler = Scheduler(limits(block_size=4, num_blocks=400, max_step_tokens=8), 4)
    add(scheduler, "long", 60)
    served_at = None
    for number in range(100):
        add(scheduler, f"short{number}", 8)
        clock.now_s += PATIENCE_S / 8
        if "long" in turn(scheduler):
            served_at = number
            break
    assert served_at == 8
    for _ in range(7):
        add(scheduler, "short", 8)
        assert "long" in turn(scheduler), "once it is at work it is not interrupted again"


@pytest.mark.usefixtures("clock")
def test_lower_priority_numbers_go_first():
    scheduler = Scheduler(limits(max_step_tokens=8), 8)
    for name, length, priority in (("a", 8, 1), ("b", 30, 0), ("c", 30, -5), ("d", 8, 0)):
        add(scheduler, name, length, priority=priority)
    assert order(scheduler) == ["c", "d", "b", "a"]


@pytest.mark.usefixtures("clock")
def test_the_least_urgent_gives_way():
    scheduler = Scheduler(limits(block_size=4, num_blocks=8, max_context=32), 4)
    old = add(scheduler, "old", 12, priority=1, max_tokens=14)
    turn(scheduler)
    young = add(scheduler, "young", 8, priority=0, max_tokens=20)
    while not (old.timings.num_preemptions or young.timings.num_preemptions):
        turn(scheduler)
    assert (old.timings.num_preemptions, young.timings.num_preemptions) == (1, 0)
    while scheduler.has_work:
        turn(scheduler)
    assert len(old.output_ids) == 14


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("places", [1, 2])
def test_keys_take_turns_however_many_one_sends(places: int):
    scheduler = Scheduler(limits(max_sequences=places), places)
    for number in range(20):
        add(scheduler, f"flood{number}", 20, key="a", max_tokens=3)
    turn(scheduler)
    add(scheduler, "one", 20, key="b", max_tokens=3)
    add(scheduler, "two", 20, key="b", max_tokens=3)
    names = order(scheduler)
    assert names.index("one") <= places
    assert names.index("two") <= 2 * places + 1


@pytest.mark.usefixtures("clock")
def test_places_are_shared_out_between_keys_at_once():
    scheduler = Scheduler(limits(max_step_tokens=32), 4)
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        add(scheduler, name, 4, key=name[0], max_tokens=3)
    assert list(turn(scheduler)) == ["a1", "b1", "c1", "a2"]


@pytest.mark.usefixtures("clock")
def test_the_one_served_least_goes_first_but_absence_earns_no_credit():
    scheduler = Scheduler(limits(max_step_tokens=64), 1)
    for number in range(6):
        add(scheduler, f"a{number}", 30, key="a")
    for _ in range(3):
        turn(scheduler)
    for number in range(6):
        add(scheduler, f"b{number}", 30, key="b")
    assert [next(iter(turn(scheduler))) for _ in range(6)] in (
        ["a3", "b0", "a4", "b1", "a5", "b2"],
        ["b0", "a3", "b1", "a4", "b2", "a5"],
    )


@pytest.mark.usefixtures("clock")
def test_two_keys_prompts_share_the_budget_while_someone_decodes():
    scheduler = Scheduler(limits(max_step_tokens=32), 4, FixedBudget(4))
    add(scheduler, "decoding", 1, key="c", max_tokens=100)
    turn(scheduler)
    add(scheduler, "a", 40, key="a")
    turn(scheduler)
    add(scheduler, "b", 40, key="b")
    got = {"a": 4, "b": 0}
    for _ in range(8):
        for name, count in turn(scheduler).items():
            if name in got:
                got[name] += count
    assert abs(got["a"] - got["b"]) <= 8
