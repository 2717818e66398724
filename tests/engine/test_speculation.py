"""Drafts: what is guessed, how guessing adapts, and that no answer ever differs because of it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from driving import TOKENIZER, Driver, limits, request

from llm_serving.backends.fake import FakeRunner
from llm_serving.engine.protocol import EngineOptions, RunnerLimits
from llm_serving.engine.request import GenerateRequest, TokenEvent
from llm_serving.engine.speculation import PromptLookup, num_accepted

COPY = "The cat sat on the mat. The cat sat on the hat. The cat sat on the mat again and again and again."
PROMPT = "Copy this: " + COPY


def said(text: str) -> list[int]:
    """Ids as the fake model says them, so that a prompt can hold what is going to be said."""
    return [256 + byte for byte in text.encode()]


def rescan(token_ids: list[int], length: int) -> list[int]:
    """The reference: look through everything for the last occurrence of the last three tokens."""
    tokens = list(token_ids)
    for position in range(len(tokens) - 1, 2, -1):
        if tokens[position - 3 : position] == token_ids[-3:]:
            for k in range(length):
                tokens.append(tokens[position + k])
            return tokens[len(token_ids) :]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("alphabet", [1, 2, 4, 20])
def test_a_draft_is_what_followed_an_occurrence_of_the_last_tokens(alphabet: int):
    rng = random.Random(alphabet)
    lookup, tokens = PromptLookup(), [rng.randrange(alphabet) for _ in range(5)]
    for _ in range(300):
        assert PromptLookup().propose(tokens, 3) == rescan(tokens, 3), "at first the last one"
        draft = lookup.propose(tokens, 3)
        assert bool(draft) == bool(rescan(tokens, 3))
        if draft:
            seen = tokens + draft
            pieces = [seen[i : i + 6] for i in range(len(seen) - 6)]
            assert seen[-6:] in pieces
        tokens += [rng.randrange(alphabet) for _ in range(rng.randrange(1, 4))]


def test_a_copy_goes_on_where_it_was():
    """The last occurrence of what recurs is not always the one that is being copied."""
    lookup, tokens = PromptLookup(), [1, 2, 3, 4, 5, 6, 9, 4, 5, 6, 8, 8, 1, 2, 3]
    assert lookup.propose(tokens, 3) == [4, 5, 6]
    assert lookup.propose([*tokens, 4, 5, 6], 3) == [9, 4, 5]
    assert PromptLookup().propose([*tokens, 4, 5, 6], 3) == [8, 8, 1]


def test_short_drafts_are_none():
    tokens = [1, 2, 3, 4, 5, 1, 2, 3]
    assert PromptLookup().propose(tokens, 3) == [4, 5, 1]
    assert PromptLookup().propose(tokens, 2) == [4, 5]
    assert PromptLookup().propose(tokens, 1) == PromptLookup().propose(tokens, -3) == []
    assert PromptLookup().propose([1, 1, 1], 3) == PromptLookup().propose([], 3) == []


def test_success_makes_drafts_longer_and_a_part_of_it_shorter():
    lookup, tokens = PromptLookup(), [1, 2] * 20
    lengths = []
    for _ in range(6):
        lengths.append(len(lookup.propose(tokens, 100)))
        lookup.record(lengths[-1], lengths[-1])
    assert lengths == [3, 4, 5, 6, 6, 6]
    lookup.record(6, 4)
    assert len(lookup.propose(tokens, 100)) == 4
    lookup.record(4, 1)
    assert len(lookup.propose(tokens, 100)) == 2


def test_misses_make_pauses_longer_and_success_forgives():
    lookup, tokens = PromptLookup(), [1, 2] * 20

    def pause() -> int:
        lookup.record(2, 0)
        count = 0
        while not lookup.propose(tokens, 100):
            count += 1
        return count

    assert [pause() for _ in range(7)] == [4, 8, 16, 32, 64, 64, 64]
    lookup.record(2, 2)
    assert pause() == 4


def test_drafts_hold_up_to_the_first_that_was_not_chosen():
    assert num_accepted([], [7]) == 0
    assert num_accepted([7, 8], [7, 8, 9]) == 2
    assert num_accepted([7, 8], [7, 9, 9]) == 1
    assert num_accepted([7, 8], [8, 8, 9]) == 0


def run(
    requests: list[GenerateRequest],
    speculation: str,
    runner_limits: RunnerLimits | None = None,
    **behaviour: object,
) -> Driver:
    options = EngineOptions(max_concurrency=2, speculation=speculation)
    driver = Driver(runner_limits or limits(num_blocks=300, max_context=400), options, **behaviour)
    for a_request in requests:
        driver.core.submit(a_request)
    driver.run()
    return driver


def facts(events: list[TokenEvent]) -> list[tuple[object, ...]]:
    return [(e.token_ids, e.text, e.finish_reason, e.num_completion_tokens) for e in events]


SAMPLINGS: dict[str, dict[str, object]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "seed": 3},
    "hot": {"temperature": 4.5, "seed": 4},
    "filtered": {"temperature": 5.0, "top_k": 8, "top_p": 0.9, "seed": 5},
    "penalties": {"temperature": 1.5, "seed": 6, "frequency_penalty": 1.9, "presence_penalty": 1.0},
    "greedy penalties": {"repetition_penalty": 1.6, "frequency_penalty": 2.0},
    "stop": {"stop": ("again and",)},
    "stop across a draft": {"stop": ("hat. The ca", "zzz")},
    "beyond the end": {"ignore_eos": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("name", list(SAMPLINGS))
def test_answers_are_the_same_token_by_token(name: str, block_size: int):
    runner_limits = limits(num_blocks=1600 // block_size, block_size=block_size, max_context=400)
    prompt = TOKENIZER.encode("Say it") + said(COPY) + TOKENIZER.encode(".")
    requests = [
        request("a", prompt, max_tokens=120, **SAMPLINGS[name]),
        request("b", PROMPT, max_tokens=90, **SAMPLINGS[name]),
    ]
    plain, guessed = (run(requests, mode, runner_limits, reply=COPY) for mode in ("off", "auto"))
    for each in requests:
        assert facts(guessed.of(each.request_id)) == facts(plain.of(each.request_id))
        assert all(len(event.token_ids) == 1 for event in guessed.of(each.request_id))
    drafted = guessed.core.stats("x")
    assert plain.core.stats("x").num_drafted_tokens == 0
    assert drafted.num_drafted_tokens >= drafted.num_accepted_tokens
    assert drafted.num_drafted_tokens > 0
    if name in ("greedy", "sampled", "stop"):
        assert drafted.num_accepted_tokens > 40


def test_accepted_tokens_are_steps_saved():
    prompt = TOKENIZER.encode("Say it") + said(COPY) + TOKENIZER.encode(".")
    a_request = request("a", prompt, max_tokens=60)
    plain, guessed = (run([a_request], mode, reply=COPY).core.stats("x") for mode in ("off", "auto"))
    assert plain.num_generated_tokens == guessed.num_generated_tokens == 60
    assert plain.num_steps - guessed.num_steps == guessed.num_accepted_tokens
    assert guessed.num_accepted_tokens > 40


@pytest.mark.parametrize("max_tokens", range(1, 30))
def test_the_limit_is_met_exactly(max_tokens: int):
    prompt = TOKENIZER.encode("Say it") + said(COPY) + TOKENIZER.encode(".")
    driver = run([request("a", prompt, max_tokens=max_tokens)], "auto", reply=COPY)
    assert driver.text("a") == COPY[:max_tokens]
    assert len(driver.tokens("a")) == max_tokens


def test_the_end_of_the_context_is_met_exactly():
    prompt = TOKENIZER.encode("Say it") + said("ab" * 20) + TOKENIZER.encode(".")
    small = limits(block_size=4, num_blocks=25, max_context=100)
    driver = run([request("a", prompt, max_tokens=500)], "auto", small, reply="ab" * 100)
    assert len(prompt) + len(driver.tokens("a")) == 100
    assert driver.core.stats("x").num_accepted_tokens > 20


def test_only_few_that_all_decode_guess():
    prompt = TOKENIZER.encode("Say it") + said(COPY) + TOKENIZER.encode(".")
    requests = [request(name, [i, *prompt], max_tokens=60) for i, name in enumerate("abc")]
    driver = Driver(limits(num_blocks=300, max_context=400), EngineOptions(), reply=COPY)
    for a_request in requests:
        driver.core.submit(a_request)
    while len(driver.core.scheduler.running) != 2:
        driver.step()
        if len(driver.core.scheduler.running) == 3:
            assert driver.core.stats("x").num_drafted_tokens == 0
        if driver.of("a"):
            driver.core.abort("c")
    before = driver.core.stats("x").num_drafted_tokens
    driver.run()
    assert driver.core.stats("x").num_drafted_tokens > before
    assert driver.text("a") == driver.text("b") == COPY[:60]


def test_a_runner_may_refuse_drafts():
    small = limits(num_blocks=300, max_context=400, takes_drafts=False)
    driver = run([request("a", "x" * 30, max_tokens=60)], "auto", small, reply="y" * 60)
    assert driver.core.stats("x").num_drafted_tokens == 0


def test_guesses_take_no_blocks_from_anybody():
    """A pool that holds two sequences to the last block: drafts must make do with what is over."""
    requests = [request(name, [i] * 8, max_tokens=56) for i, name in enumerate("ab")]
    driver = run(requests, "auto", limits(block_size=4, num_blocks=32, max_context=64), reply="z" * 100)
    stats = driver.core.stats("x")
    assert stats.num_accepted_tokens > 60
    assert stats.num_preemptions == 0
    assert driver.text("a") == driver.text("b") == "z" * 56


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_what_was_guessed_wrong_is_never_shared(seed: int):
    """Talks that go on with what was said, on one engine: the fake runner reads back every block."""
    rng = random.Random(seed)
    drivers = [
        Driver(
            limits(num_blocks=60, block_size=4, max_context=200),
            EngineOptions(max_concurrency=3, speculation=mode),
            reply=COPY,
        )
        for mode in ("auto", "off")
    ]
    talks = [TOKENIZER.encode("Hi"), TOKENIZER.encode("Ho")]
    for number in range(12):
        index = rng.randrange(2)
        if len(talks[index]) > 120:
            talks[index] = talks[index][:30]
        sampling = {"temperature": rng.choice([0.0, 4.0, 6.0]), "seed": number}
        a_request = request(f"r{number}", talks[index], rng.randrange(1, 40), ignore_eos=True, **sampling)
        for driver in drivers:
            driver.core.submit(a_request)
            driver.run()
        outputs = [driver.tokens(a_request.request_id) for driver in drivers]
        assert outputs[0] == outputs[1]
        talks[index] = talks[index] + outputs[0] + TOKENIZER.encode(rng.choice(["?", "!"]))
    assert drivers[0].core.stats("x").num_drafted_tokens > 5


def test_abort_between_two_runs_of_drafts():
    prompt = TOKENIZER.encode("Say it") + said(COPY) + TOKENIZER.encode(".")
    driver = Driver(limits(num_blocks=300, max_context=400), reply=COPY)
    driver.core.submit(request("a", prompt, max_tokens=90))
    driver.core.submit(replace(request("b", prompt, max_tokens=90)))
    while driver.core.stats("x").num_accepted_tokens < 10:
        driver.step()
    driver.core.abort("a")
    driver.run()
    assert COPY.startswith(driver.text("a"))
    assert driver.text("b") == COPY[:90]
    assert driver.core.stats("x").num_free_blocks == 300
    assert isinstance(driver.runner, FakeRunner)
