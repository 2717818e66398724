from __future__ import annotations

from functools import partial

import driving
import pytest
from driving import FixedBudget, request

from llm_serving.backends.fake import FakeTokenizer
from llm_serving.engine.batch import Plan
from llm_serving.engine.detokenizer import Detokenizer
from llm_serving.engine.scheduler import Scheduler
from llm_serving.engine.sequence import Sequence, SequenceStatus

TOKEN_BYTES = FakeTokenizer().token_bytes
limits = partial(driving.limits, takes_drafts=False)


def add(scheduler: Scheduler, name: str, prompt: list[int], max_tokens: int = 100) -> Sequence:
    sequence = Sequence(request(name, prompt, max_tokens), Detokenizer(TOKEN_BYTES), scheduler.max_context)
    scheduler.add(sequence)
    return sequence


def turn(scheduler: Scheduler, token: int = 300) -> dict[str, int]:
    """One step; returns how many tokens each request computed. Everyone sampled gets `token`."""
    plan = scheduler.schedule()
    if plan is None:
        return {}
    verify(scheduler, plan)
    for sequence in plan.sampled:
        sequence.advance(token)
    scheduler.commit(plan)
    for sequence in plan.sampled:
        if sequence.is_finished:
            scheduler.finish(sequence)
    scheduler.check_integrity()
    return {s.request.request_id: count for s, count in zip(plan.sequences, plan.counts, strict=True)}


def verify(scheduler: Scheduler, plan: Plan) -> None:
    """The step says exactly what the sequences say."""
    step = plan.step
    assert len(step.token_ids) <= scheduler.max_step_tokens
    for i, (sequence, count) in enumerate(zip(plan.sequences, plan.counts, strict=True)):
        begin, end = step.query_starts[i : i + 2]
        first = sequence.num_computed_tokens
        assert end - begin == count
        assert step.token_ids[begin:end].tolist() == sequence.token_ids[first : first + count]
        assert step.positions[begin:end].tolist() == list(range(first, first + count))
        width = step.block_tables.shape[1]
        assert step.block_tables[i].tolist() == (sequence.block_ids + [-1] * width)[:width]
        assert len(sequence.block_ids) * scheduler.block_size >= first + count
    last_rows = [
        step.query_starts[i + 1] - 1
        for i, (s, count) in enumerate(zip(plan.sequences, plan.counts, strict=True))
        if s.num_computed_tokens + count == s.num_tokens
    ]
    assert step.logit_rows.tolist() == last_rows
    assert len(plan.sampled) == len(last_rows)


def ids(count: int, start: int = 0) -> list[int]:
    return [(start + i * 7) % 256 for i in range(count)]


def test_nothing_to_do_is_no_plan():
    assert Scheduler(limits(), 4).schedule() is None


def test_a_prompt_alone_uses_the_whole_step_then_decodes():
    scheduler = Scheduler(limits(max_step_tokens=10), 4)
    add(scheduler, "a", ids(23))
    assert [turn(scheduler) for _ in range(5)] == [{"a": 10}, {"a": 10}, {"a": 3}, {"a": 1}, {"a": 1}]


def test_decoding_comes_first_and_limits_prefill():
    scheduler = Scheduler(limits(max_step_tokens=30), 4, FixedBudget(6))
    add(scheduler, "a", ids(5))
    turn(scheduler)
    add(scheduler, "b", ids(14, 100))
    assert [turn(scheduler) for _ in range(4)] == [
        {"a": 1, "b": 6},
        {"a": 1, "b": 6},
        {"a": 1, "b": 2},
        {"a": 1, "b": 1},
    ]


def test_max_step_tokens_holds_also_with_a_generous_prefill_budget():
    scheduler = Scheduler(limits(max_step_tokens=5), 4, FixedBudget(100))
    add(scheduler, "a", ids(3))
    turn(scheduler)
    add(scheduler, "b", ids(9, 100))
    assert [turn(scheduler) for _ in range(3)] == [{"a": 1, "b": 4}, {"a": 1, "b": 4}, {"a": 1, "b": 1}]


def test_equal_prompts_share_a_step_in_order_of_arrival():
    scheduler = Scheduler(limits(max_step_tokens=20), 4)
    for name, length in (("a", 8), ("b", 8), ("c", 8)):
        add(scheduler, name, ids(length, ord(name)))
    assert turn(scheduler) == {"a": 8, "b": 8, "c": 4}


def test_a_step_may_hold_more_tokens_than_the_context():
    scheduler = Scheduler(limits(max_step_tokens=40, max_context=16), 4)
    for name in "abc":
        add(scheduler, name, ids(11, ord(name)))
    assert turn(scheduler) == {"a": 11, "b": 11, "c": 11}
    assert turn(scheduler) == {"a": 1, "b": 1, "c": 1}


def test_no_more_run_than_allowed():
    scheduler = Scheduler(limits(max_sequences=3), 2)
    sequences = [add(scheduler, name, ids(3, ord(name)), max_tokens=2) for name in "abc"]
    assert turn(scheduler).keys() == {"a", "b"}
    assert turn(scheduler).keys() == {"a", "b"}
    assert turn(scheduler).keys() == {"c"}
    assert Scheduler(limits(max_sequences=3), 8).max_running == 3
    assert Scheduler(limits(max_step_tokens=2), 8).max_running == 2
    assert [s.status for s in sequences] == [SequenceStatus.FINISHED] * 2 + [SequenceStatus.RUNNING]


def test_a_second_equal_prompt_comes_from_the_cache_but_for_its_last_block():
    scheduler = Scheduler(limits(block_size=4), 4)
    for length, cached in ((8, 4), (9, 8), (11, 8)):
        first = add(scheduler, "first", ids(length, length), max_tokens=1)
        assert turn(scheduler) == {"first": length}
        second = add(scheduler, "second", ids(length, length), max_tokens=1)
        assert turn(scheduler) == {"second": length - cached}
        assert (first.num_cached_tokens, second.num_cached_tokens) == (0, cached)


def test_generated_blocks_are_found_by_the_next_turn_of_a_chat():
    scheduler = Scheduler(limits(block_size=4), 4)
    first = add(scheduler, "first", ids(6), max_tokens=7)
    while scheduler.has_work:
        turn(scheduler)
    second = add(scheduler, "second", first.token_ids + ids(3))
    assert turn(scheduler) == {"second": 4}
    assert second.num_cached_tokens == 12


def test_equal_prompts_at_once_compute_the_prefix_once():
    scheduler = Scheduler(limits(block_size=4, max_step_tokens=8, num_blocks=200), 8)
    prefix = ids(20)
    sequences = [add(scheduler, f"r{i}", [*prefix, 200 + i, 201 + i]) for i in range(5)]
    computed: dict[str, int] = dict.fromkeys((s.request.request_id for s in sequences), 0)
    while any(not s.output_ids for s in sequences):
        for name, count in turn(scheduler).items():
            computed[name] += count if not sequences[int(name[1])].output_ids[1:] else 0
    assert [s.num_cached_tokens for s in sequences] == [0, 20, 20, 20, 20]
    assert sum(computed.values()) == 22 + 4 * 2
    assert len({tuple(s.block_ids[:5]) for s in sequences}) == 1, "one set of blocks"


def test_a_follower_begins_while_the_first_is_still_in_prefill():
    scheduler = Scheduler(limits(block_size=4, max_step_tokens=32), 4)
    scheduler.max_step_tokens = 8
    add(scheduler, "long", ids(40))
    assert turn(scheduler) == {"long": 8}
    short = add(scheduler, "short", [*ids(16), 9, 9])
    assert turn(scheduler) == {"long": 8}, "the short one waits for what the long one computes"
    assert turn(scheduler) == {"short": 2, "long": 6}
    assert short.num_cached_tokens == 16


def test_a_follower_takes_over_when_the_first_leaves():
    scheduler = Scheduler(limits(block_size=4, max_step_tokens=8), 4)
    first = add(scheduler, "first", ids(30))
    second = add(scheduler, "second", ids(30))
    assert turn(scheduler) == {"first": 8}
    scheduler.finish(first)
    scheduler.check_integrity()
    assert turn(scheduler) == {"second": 8}
    assert second.num_cached_tokens == 8
    assert scheduler.pool.num_claims > 0
    scheduler.finish(second)
    assert scheduler.pool.num_claims == 0
    scheduler.check_integrity()


def test_the_youngest_gives_way_and_recomputes_from_the_cache():
    scheduler = Scheduler(limits(block_size=4, num_blocks=8, max_context=32), 4)
    old = add(scheduler, "old", ids(12), max_tokens=14)
    turn(scheduler)
    young = add(scheduler, "young", ids(8, 100), max_tokens=20)
    while not young.timings.num_preemptions:
        turn(scheduler)
    assert young.status is SequenceStatus.WAITING
    assert scheduler.waiting[0] is young
    assert old.status is SequenceStatus.RUNNING
    generated = len(young.output_ids)
    assert generated > 0
    while not old.is_finished:
        turn(scheduler)
    counts = turn(scheduler)
    assert counts["young"] < 8 + generated, "part of it was still in the cache"
    while not young.is_finished:
        turn(scheduler)
    assert scheduler.num_preemptions >= 1
    assert scheduler.pool.num_free == 8


def test_preempted_sequences_come_back_before_the_queue():
    scheduler = Scheduler(limits(block_size=4, num_blocks=8, max_context=32), 2)
    add(scheduler, "a", ids(10), max_tokens=22)
    young = add(scheduler, "b", ids(10, 50), max_tokens=22)
    while not young.output_ids:
        turn(scheduler)
    add(scheduler, "c", ids(4, 90), max_tokens=2)
    while not young.timings.num_preemptions:
        turn(scheduler)
    assert [s.request.request_id for s in scheduler.waiting] == ["b", "c"]
    order = []
    while scheduler.has_work:
        order += [name for name in turn(scheduler) if name not in order]
    assert order == ["a", "b", "c"]


def test_an_older_prefill_takes_blocks_of_a_younger_that_was_already_planned():
    scheduler = Scheduler(limits(block_size=4, num_blocks=40, max_step_tokens=32), 8)
    scheduler.max_step_tokens = 16
    add(scheduler, "leader", ids(26))
    add(scheduler, "follower", [*ids(24), 1, 2, 3, 4])
    assert turn(scheduler) == {"leader": 16}
    add(scheduler, "young", ids(19, 99))
    scheduler.max_step_tokens = 29
    assert turn(scheduler) == {"leader": 10, "young": 19}, "the follower waits, the young passes it"
    while scheduler.pool.allocate() is not None:
        pass
    add(scheduler, "late", ids(1, 50))
    plan = scheduler.schedule()
    assert plan is not None
    verify(scheduler, plan)
    assert [s.request.request_id for s in plan.sequences] == ["leader", "follower"]
    assert [s.request.request_id for s in scheduler.waiting] == ["young", "late"], "nobody comes in meanwhile"


def test_admission_waits_for_blocks():
    scheduler = Scheduler(limits(block_size=4, num_blocks=8, max_context=32), 4)
    add(scheduler, "big", ids(24), max_tokens=3)
    assert turn(scheduler).keys() == {"big"}
    add(scheduler, "next", ids(12, 100), max_tokens=3)
    assert turn(scheduler).keys() == {"big"}
    assert turn(scheduler).keys() == {"big"}
    assert turn(scheduler).keys() == {"next"}
    assert scheduler.num_preemptions == 0


def test_a_standstill_costs_the_youngest_its_place_and_never_spins(monkeypatch: pytest.MonkeyPatch):
    scheduler = Scheduler(limits(), 4)
    add(scheduler, "old", ids(9))
    add(scheduler, "young", ids(9, 50))
    turn(scheduler)
    monkeypatch.setattr(Scheduler, "_reserve", lambda *_: 0)
    with pytest.raises(RuntimeError):
        scheduler.schedule()
    assert [s.request.request_id for s in scheduler.running] == ["old"]
    assert [s.request.request_id for s in scheduler.waiting] == ["young"]


@pytest.mark.parametrize("when", [0, 1, 2, 5])
def test_finishing_at_any_state_leaves_everything_free(when: int):
    scheduler = Scheduler(limits(max_step_tokens=8), 2)
    sequences = [add(scheduler, name, ids(20, ord(name))) for name in "abc"]
    for _ in range(when):
        turn(scheduler)
    for sequence in sequences:
        scheduler.finish(sequence)
        scheduler.check_integrity()
    assert not scheduler.has_work
    assert scheduler.schedule() is None
    assert scheduler.pool.num_free == 64


def test_integrity_check_sees_a_leak():
    scheduler = Scheduler(limits(), 2)
    add(scheduler, "a", ids(9))
    turn(scheduler)
    scheduler.running[0].block_ids.pop()
    with pytest.raises(AssertionError):
        scheduler.check_integrity()
