"""A draft model on the fake engine, which reads back every block: no answer differs, whatever it guesses."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from drafted import TEXT, Drafted, Recorder
from driving import TOKENIZER, Driver, alone, limits, picture, request

from llm_serving.backends.constraints import Choice, Constraints
from llm_serving.backends.fake import VOCAB_SIZE
from llm_serving.engine.draft_model import FIRST_READ, DraftModel
from llm_serving.engine.protocol import EngineOptions, Step
from llm_serving.engine.request import GenerateRequest, TokenEvent
from llm_serving.engine.sampler import NumpySampler
from llm_serving.engine.speculation import MAX_DRAFTING
from llm_serving.errors import InvalidRequest

HALF = "".join(letter if i % 4 else "#" for i, letter in enumerate(TEXT))  # right in three of four places
LETTERS = [chr(code) for code in range(33, 126)]
REPLIES = {"all": TEXT, "some": HALF, "none": "~" * 200}


def facts(events: list[TokenEvent]) -> list[tuple[object, ...]]:
    return [(e.token_ids, e.text, e.finish_reason, e.num_completion_tokens, e.logprobs) for e in events]


def run(driver: Driver, *requests: GenerateRequest) -> Driver:
    for a_request in requests:
        driver.core.submit(a_request)
    driver.run()
    return driver


def plain(*requests: GenerateRequest, **behaviour: object) -> Driver:
    return run(
        Driver(
            limits(num_blocks=300, max_context=400), EngineOptions(speculation="off"), None, None, **behaviour
        ),
        *requests,
    )


SAMPLINGS: dict[str, dict[str, object]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "seed": 3},
    "hot": {"temperature": 4.5, "seed": 4},
    "penalties": {"temperature": 1.5, "seed": 6, "frequency_penalty": 1.9, "repetition_penalty": 1.1},
    "bias": {"temperature": 1.5, "seed": 7, "logit_bias": ((300, 3.0), (VOCAB_SIZE - 1, -1.0))},
    "stop": {"stop": ("big sph", "zzz")},
    "beyond the end": {"ignore_eos": True},
    "with log-probabilities": {"temperature": 1.0, "seed": 3, "top_logprobs": 2},
}


@pytest.mark.parametrize("draft", list(REPLIES))
@pytest.mark.parametrize("name", list(SAMPLINGS))
def test_answers_are_the_same_token_by_token(name: str, draft: str) -> None:
    requests = [
        request("a", "Say something.", max_tokens=70, **SAMPLINGS[name]),
        request("b", "Say something more, and be quick.", max_tokens=110, **SAMPLINGS[name]),
    ]
    off = plain(*requests, reply=TEXT)
    drafted = run(Drafted(draft=REPLIES[draft], reply=TEXT), *requests)
    for each in requests:
        assert facts(drafted.of(each.request_id)) == facts(off.of(each.request_id))
        assert all(len(event.token_ids) == 1 for event in drafted.of(each.request_id))
    stats = drafted.core.stats("x")
    assert stats.num_drafted_tokens > 0
    if name == "greedy":
        shares = {"all": (0.95, 1.0), "some": (0.3, 0.8), "none": (0.0, 0.1)}[draft]
        assert shares[0] <= stats.num_accepted_tokens / stats.num_drafted_tokens <= shares[1]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_a_model_that_agrees_is_right_at_any_temperature(temperature: float) -> None:
    """Of a thousand hashed logits hardly two are alike: only the same random number makes the same choice."""
    a_request = request("a", "Say it.", 100, temperature=temperature, seed=9, ignore_eos=True)
    drafted = run(Drafted(draft=None, random=True), a_request)
    stats = drafted.core.stats("x")
    assert drafted.tokens("a") == plain(a_request, random=True).tokens("a")
    assert stats.num_accepted_tokens == stats.num_drafted_tokens > 80
    assert stats.num_steps < 25


def test_accepted_tokens_are_steps_saved() -> None:
    a_request = request("a", "Say something.", max_tokens=60)
    off, on = (
        plain(a_request, reply=TEXT).core.stats("x"),
        run(Drafted(reply=TEXT), a_request).core.stats("x"),
    )
    assert off.num_generated_tokens == on.num_generated_tokens == 60
    assert off.num_steps - on.num_steps == on.num_accepted_tokens > 45


@pytest.mark.parametrize("max_tokens", range(1, 20))
def test_the_limit_is_met_exactly(max_tokens: int) -> None:
    driver = run(Drafted(reply=TEXT), request("a", "Say something.", max_tokens))
    assert driver.text("a") == TEXT[:max_tokens]


@pytest.mark.parametrize("longer", [-12, 0, 12])
def test_the_end_of_either_context_is_met_exactly(longer: int) -> None:
    small = limits(block_size=4, num_blocks=25, max_context=60)
    its_own = replace(limits(MAX_DRAFTING * 20), max_context=60 + longer)
    driver = run(Drafted(small, TEXT, its_own, reply=TEXT), request("a", "Say it.", max_tokens=500))
    assert driver.text("a") == TEXT[: 60 - len("Say it.")]
    assert driver.core.stats("x").num_accepted_tokens > 20


def test_two_are_guessed_for_in_the_same_steps() -> None:
    requests = [request(name, f"Say {name}.", max_tokens=60) for name in "ab"]
    driver = run(Drafted(reply=TEXT), *requests)
    assert driver.text("a") == driver.text("b") == TEXT[:60]
    assert sum(count == 2 for count, _ in driver.draft.steps) > 0.8 * len(driver.draft.steps)


def test_nobody_is_guessed_for_while_three_run() -> None:
    driver = Drafted(reply=TEXT)
    for name in "abc":
        driver.core.submit(request(name, f"Say {name}.", max_tokens=60))
    for _ in range(20):
        driver.step()
    assert driver.draft.steps == []
    driver.core.abort("a")
    driver.run()
    assert driver.draft.steps
    assert driver.text("b") == driver.text("c") == TEXT[:60]


def test_a_long_prompt_is_read_in_pieces_before_anything_is_guessed() -> None:
    driver = Drafted(
        limits(num_blocks=600, max_context=800, max_step_tokens=128),
        draft_limits=replace(limits(MAX_DRAFTING * 202), max_context=808, max_step_tokens=128),
        reply=TEXT,
    )
    run(driver, request("a", "x" * 500, max_tokens=60))
    read = [tokens for _, tokens in driver.draft.steps if tokens > 2]
    assert read[:4] == [FIRST_READ, 2 * FIRST_READ, 4 * FIRST_READ, 126]
    assert sum(read) == 501 + len(read[:-1])  # a token of the answer came with every piece
    assert driver.text("a") == TEXT[:60]
    assert driver.core.stats("x").num_accepted_tokens > 30


def test_what_is_long_must_promise_to_pay() -> None:
    """Reading costs ten steps here: too much for an answer of a few tokens."""
    costs = (0.04, 0.005, 0.02)
    few, many = (
        run(Drafted(reply=TEXT, draft_costs=costs), request("a", "x" * 300, max_tokens=count))
        for count in (8, 90)
    )
    assert few.draft.steps == []
    assert many.core.stats("x").num_accepted_tokens > 30


def test_the_next_turn_of_a_conversation_is_read_from_its_end() -> None:
    driver = run(Drafted(reply=TEXT), request("a", "Say something. " * 8, max_tokens=40))
    talk = TOKENIZER.encode("Say something. " * 8) + driver.tokens("a")
    before = driver.draft.num_tokens
    run(driver, request("b", talk + TOKENIZER.encode("?"), max_tokens=10))
    assert driver.draft.num_tokens - before < 30
    assert driver.core.stats("x").num_accepted_tokens > 30


def test_forms_and_pictures_are_nothing_for_the_model() -> None:
    constraint = Constraints(TOKENIZER, VOCAB_SIZE).build(Choice([TEXT]), 1, "x")[0]
    prompt = TOKENIZER.encode("x" * 20)
    for special in (
        replace(request("a", "Say it.", max_tokens=120), constraint=constraint),
        replace(request("a", prompt, max_tokens=60), given=(picture(4, 1, 8),)),
    ):
        driver = run(Drafted(reply=TEXT), special)
        assert driver.draft.steps == []
        assert driver.text("a").startswith(TEXT[:60])


def test_who_gave_way_goes_on_being_guessed_for() -> None:
    driver = Drafted(reply=TEXT)
    for name in "ab":
        driver.core.submit(request(name, f"Say {name}.", max_tokens=80))
    while driver.core.stats("x").num_accepted_tokens < 20:
        driver.step()
    driver.core.scheduler.preempt(driver.core.scheduler.running[-1])
    read = driver.draft.num_tokens
    driver.run()
    assert driver.text("a") == driver.text("b") == TEXT[:80]
    stats = driver.core.stats("x")
    assert stats.num_accepted_tokens == stats.num_drafted_tokens > 100
    assert driver.draft.num_tokens - read < 170  # what it had read of them is still there


def test_text_that_repeats_itself_needs_no_model() -> None:
    prompt = TOKENIZER.encode("Say it") + [256 + byte for byte in TEXT.encode()] + TOKENIZER.encode(".")
    with_model = run(Drafted(reply=TEXT, draft="~" * 90), request("a", prompt, max_tokens=80))
    assert with_model.core.stats("x").num_accepted_tokens > 50
    assert len(with_model.draft.steps) < 15


def test_tokens_that_only_one_of_the_models_has() -> None:
    fewer = replace(limits(MAX_DRAFTING * 110), max_context=408, vocab_size=VOCAB_SIZE - 4)
    more = replace(fewer, vocab_size=VOCAB_SIZE + 40)
    foreign = [*TOKENIZER.encode("Say it."), VOCAB_SIZE - 2, 65]
    for draft_limits, prompt, is_drafted in (
        (fewer, foreign, False),
        (fewer, TOKENIZER.encode("Say it."), True),
        (more, foreign, True),
    ):
        driver = run(Drafted(None, TEXT, draft_limits, reply=TEXT), request("a", prompt, max_tokens=40))
        assert driver.text("a") == TEXT[:40]
        assert bool(driver.core.stats("x").num_drafted_tokens) is is_drafted
    biased = request("a", "Say it.", 40, logit_bias=((VOCAB_SIZE - 1, 1.0),))
    driver = run(Drafted(None, TEXT, fewer, reply=TEXT), biased)
    assert driver.text("a") == TEXT[:40]
    assert driver.draft.steps == []


def test_tokens_that_the_large_model_has_not_are_not_proposed() -> None:
    class Foreign(Recorder):
        def run(self, step: Step) -> np.ndarray:
            logits = super().run(step)
            logits[step.positions[step.logit_rows] % 3 == 0, -1] = 100.0
            return logits

    driver = Drafted(reply=TEXT)
    its_limits = replace(limits(MAX_DRAFTING * 110), max_context=408, vocab_size=VOCAB_SIZE + 1)
    driver.model = DraftModel(Foreign(its_limits, reply=TEXT), NumpySampler(), VOCAB_SIZE)
    driver.core.scheduler.drafting.model = driver.model
    run(driver, request("a", "Say it.", max_tokens=60))
    assert driver.text("a") == TEXT[:60]
    stats = driver.core.stats("x")
    assert stats.num_accepted_tokens == stats.num_drafted_tokens > 10


def test_a_model_that_cannot_take_a_token_back_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="another family") as caught:
        DraftModel(Recorder(limits(takes_drafts=False)), NumpySampler(), VOCAB_SIZE)
    assert caught.value.param == "draft_model"


def test_speculation_off_is_off() -> None:
    driver = run(Drafted(options=EngineOptions(speculation="off"), reply=TEXT), request("a", "Say it.", 40))
    assert driver.draft.steps == []


@pytest.mark.parametrize("right", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("base_s", [0.02, 0.2, 0.9])
def test_what_does_not_help_costs_little(right: float, base_s: float) -> None:
    """In seconds of a machine whose costs are known: the model is wrong too often, or slow, or both."""
    rng = random.Random(1)
    reply = "".join(rng.choice(LETTERS) for _ in range(800))
    guess = "".join(letter if rng.random() < right else "~" for letter in reply)
    room = limits(num_blocks=225, max_context=900)
    driver = Drafted(room, guess, draft_costs=(base_s, 0.01, 0.01), reply=reply)
    run(driver, request("a", "Say it.", max_tokens=700))
    stats = driver.core.stats("x")
    of_the_model = sum(base_s + 0.01 * (count + tokens) for count, tokens in driver.draft.steps)
    rows = stats.num_generated_tokens - stats.num_accepted_tokens + stats.num_drafted_tokens
    taken = stats.num_steps * 1.0 + 0.02 * rows + of_the_model
    without = stats.num_generated_tokens * 1.02
    assert taken < 1.03 * without
    if right == 0.6 and base_s == 0.02:
        assert taken < 0.6 * without


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_requests_that_come_go_and_give_way(seed: int) -> None:
    """A pool too small for all: every answer is what the request gets alone."""
    rng = random.Random(seed)
    driver = Drafted(limits(num_blocks=17, max_context=64), draft=None, random=True)
    expected: dict[str, GenerateRequest] = {}
    for number in range(30):
        prompt = [rng.randrange(250) for _ in range(rng.randrange(1, 30))]
        sampling = {"temperature": rng.choice([0.0, 1.0, 3.0]), "seed": number}
        a_request = request(f"r{number}", prompt, rng.randrange(1, 30), **sampling)
        driver.core.submit(a_request)
        expected[a_request.request_id] = a_request
        for _ in range(rng.randrange(12)):
            driver.step()
        if rng.random() < 0.15:
            driver.core.abort(a_request.request_id)
            del expected[a_request.request_id]
    driver.run()
    for request_id, a_request in expected.items():
        assert driver.tokens(request_id) == alone(a_request)
    assert driver.core.stats("x").num_accepted_tokens > 0
