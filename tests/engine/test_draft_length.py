"""How long drafts of a model are, on machines whose costs are known."""

from __future__ import annotations

import random

import pytest

from llm_serving.engine.draft_length import (
    MOST_DRAFTED,
    Acceptance,
    Allowance,
    DraftCosts,
    best_length,
    saved_s,
)

CHEAP = DraftCosts(step_s=0.1, row_s=0.002, token_s=0.006, read_s=0.0007)
DEAR = DraftCosts(step_s=0.1, row_s=0.002, token_s=0.1, read_s=0.05)


def rate_of(rate: float, costs: DraftCosts, length: int, num_steps: int = 20_000) -> float:
    """Tokens a second of steps whose drafts hold by chance, counted."""
    rng = random.Random(length)
    num_tokens = 0
    for _ in range(num_steps):
        num_tokens += 1
        for _ in range(length):
            if rng.random() >= rate:
                break
            num_tokens += 1
    return num_tokens / (num_steps * (costs.step_s + length * (costs.row_s + costs.token_s)))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("costs", [CHEAP, DEAR])
def test_no_other_length_is_faster(rate: float, costs: DraftCosts) -> None:
    chosen = best_length(rate, costs, MOST_DRAFTED)
    rates = [rate_of(rate, costs, length) for length in range(MOST_DRAFTED + 1)]
    assert rates[chosen] >= 0.98 * max(rates)
    if chosen:
        gained = 1 / rates[0] - 1 / rates[chosen]
        assert saved_s(rate, costs, chosen) == pytest.approx(gained, rel=0.05)


def test_what_costs_as_much_as_it_saves_is_not_done() -> None:
    assert best_length(1.0, DEAR, MOST_DRAFTED) == 0
    assert best_length(0.0, CHEAP, MOST_DRAFTED) == 0
    assert best_length(1.0, CHEAP, 3) == 3
    assert best_length(1.0, CHEAP, 0) == 0


def test_a_rate_is_soon_that_of_the_latest_drafts() -> None:
    acceptance = Acceptance().beginning()
    for _ in range(20):
        acceptance.record(4, 0)
    assert acceptance.rate < 0.2
    for _ in range(10):
        acceptance.record(4, 4)
    assert acceptance.rate > 0.75
    assert 0.0 < acceptance.rate < 1.0


def test_tokens_behind_a_wrong_one_say_nothing() -> None:
    short, long = Acceptance(), Acceptance()
    for _ in range(50):
        short.record(2, 1)
        long.record(7, 1)
    assert short.rate == long.rate == pytest.approx(0.5, abs=0.05)


def test_a_new_sequence_is_expected_to_be_as_the_others_were() -> None:
    acceptance = Acceptance()
    for _ in range(300):
        acceptance.record(4, 0)
    assert acceptance.beginning().rate == acceptance.rate < 0.1


def test_trials_cost_a_fiftieth_at_most() -> None:
    allowance, rng = Allowance(), random.Random(1)
    spent = passed = 0.0
    for _ in range(5000):
        price = rng.choice([0.01, 0.05, 0.3])
        if allowance.spend(price):
            spent += price
        else:
            allowance.earn(0.1)
            passed += 0.1
    assert 0.015 * passed < spent <= 0.02 * passed


def test_what_is_saved_up_is_bounded() -> None:
    allowance = Allowance()
    for _ in range(100_000):
        allowance.earn(0.1)
    assert allowance.spend(0.79)
    assert not allowance.spend(0.02)
