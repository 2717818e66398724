"""The prefill budget against machines whose costs are known. No clock: what a step took is told."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import pytest
from driving import Driver, limits, request

from llm_serving.engine.budget import PrefillBudget, StepCosts
from llm_serving.engine.protocol import Step

Machine = Callable[[int, int], float]


def machine(base_s: float, row_s: float, token_s: float) -> Machine:
    return lambda num_rows, num_tokens: base_s + row_s * num_rows + token_s * num_tokens


SMALL = machine(4e-3, 1e-3, 0.8e-3)
LARGE = machine(80e-3, 4e-3, 20e-3)
FAST = machine(1e-3, 0.02e-3, 0.01e-3)


def decode(budget: PrefillBudget, a_machine: Machine, num_rows: int, num_steps: int = 60) -> None:
    for _ in range(num_steps):
        budget.costs.observe(num_rows, 0, a_machine(num_rows, 0))


def prefill(budget: PrefillBudget, a_machine: Machine, num_rows: int, num_steps: int = 60) -> list[float]:
    """Seconds of steps in which a prompt without end takes its budget."""
    seconds = []
    for _ in range(num_steps):
        num_tokens = budget.num_tokens(num_rows)
        seconds.append(a_machine(num_rows, num_tokens))
        budget.costs.observe(num_rows, num_tokens, seconds[-1])
    return seconds


@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("a_machine", [SMALL, FAST])
def test_a_gap_grows_by_a_factor_that_is_known(a_machine: Machine, num_rows: int):
    budget = PrefillBudget(step_s=0.06)
    decode(budget, a_machine, num_rows)
    normal_s = a_machine(num_rows, 0)
    seconds = prefill(budget, a_machine, num_rows)
    assert max(seconds) <= 3 * normal_s
    assert seconds[-1] == pytest.approx((1 + PrefillBudget.PROMPT_SHARE) * normal_s, rel=0.1)


def test_a_step_keeps_to_the_limit():
    budget = PrefillBudget(step_s=0.06)
    decode(budget, SMALL, 32)
    seconds = prefill(budget, SMALL, 32)
    assert seconds[-1] == pytest.approx(0.06, rel=0.05)


def test_few_do_not_keep_many_waiting():
    budget = PrefillBudget(step_s=0.06)
    decode(budget, SMALL, 4)
    prefill(budget, SMALL, 4)
    alone, many, most = (budget.num_tokens(4, waiting) for waiting in (4, 12, 60))
    assert alone == budget.num_tokens(4)
    assert many == pytest.approx(3 * alone, abs=2)
    assert SMALL(4, most) == pytest.approx(0.06, rel=0.05), "but the limit stays"


def test_prompts_get_a_third_of_the_time_whatever_the_limit():
    budget = PrefillBudget(step_s=0.02)
    decode(budget, SMALL, 32)
    assert prefill(budget, SMALL, 32)[-1] == pytest.approx(1.5 * SMALL(32, 0), rel=0.1)


def test_some_tokens_always_go_in():
    budget = PrefillBudget(step_s=0.06)
    decode(budget, LARGE, 1)
    prefill(budget, LARGE, 1)
    assert budget.num_tokens(1) == PrefillBudget.LEAST_TOKENS


def test_a_batch_that_has_never_decoded_alone_is_not_mistaken_for_a_slow_prompt():
    budget = PrefillBudget(step_s=0.06)
    decode(budget, SMALL, 1)
    for num_rows in range(1, 17):
        prefill(budget, SMALL, num_rows, num_steps=10)
    seconds = prefill(budget, SMALL, 16)
    assert seconds[-1] >= 2 * SMALL(16, 0)


def test_rows_and_prompts_that_always_come_together_are_told_apart():
    """Small pieces beside a batch once looked dear, and the batch cheap, so pieces stayed small."""
    budget = PrefillBudget(step_s=0.06)
    decode(budget, SMALL, 1)
    for _ in range(200):
        budget.costs.observe(8, 12, SMALL(8, 12))
    assert budget.costs.decode_s(8) >= 0.85 * SMALL(8, 0)
    assert budget.costs.prompt_token_s <= 1.15 * 0.8e-3


def test_tokens_that_cost_more_further_on_are_fewer():
    budget = PrefillBudget(step_s=0.06)
    decode(budget, SMALL, 1)
    normal_s, done, seconds = SMALL(1, 0), 0, []
    while done < 2000:
        num_tokens = budget.num_tokens(1)
        done += num_tokens
        seconds.append(machine(4e-3, 1e-3, 0.6e-3 + 0.4e-6 * done)(1, num_tokens))
        budget.costs.observe(1, num_tokens, seconds[-1])
    assert max(seconds) <= 3 * normal_s
    assert min(seconds[20:]) >= 1.8 * normal_s


def test_noise_and_interruptions_move_little():
    rng = random.Random(1)
    budget = PrefillBudget(step_s=0.06)
    for i in range(300):
        num_rows, num_tokens = rng.choice([1, 2, 4]), rng.choice([0, 0, 16])
        noise = 10.0 if i % 50 == 49 else rng.uniform(0.9, 1.2)
        budget.costs.observe(num_rows, num_tokens, SMALL(num_rows, num_tokens) * noise)
    assert budget.costs.decode_s(2) == pytest.approx(SMALL(2, 0), rel=0.2)
    assert budget.costs.prompt_token_s == pytest.approx(0.8e-3, rel=0.3)


def test_a_slow_neighbour_is_noticed_and_so_is_its_leaving():
    budget = PrefillBudget(step_s=0.06)
    decode(budget, SMALL, 2)
    decode(budget, lambda *work: 3 * SMALL(*work), 2)
    assert budget.costs.decode_s(2) == pytest.approx(3 * SMALL(2, 0), rel=0.1)
    decode(budget, SMALL, 2)
    assert budget.costs.decode_s(2) == pytest.approx(SMALL(2, 0), rel=0.1)


def test_costs_are_never_negative_nor_learnt_from_the_first_step():
    costs = StepCosts()
    costs.observe(0, 8, 100.0)
    assert costs.decode_s(1) < 0.01
    rng = random.Random(2)
    for _ in range(200):
        costs.observe(rng.randrange(3), rng.randrange(3), rng.random() * 0.01)
        assert costs.decode_s(0) > 0
        assert costs.decode_s(32) >= costs.decode_s(0)
        assert costs.prompt_token_s > 0


@pytest.mark.slow
def test_the_engine_keeps_gaps_short_while_a_prompt_arrives(monkeypatch: pytest.MonkeyPatch):
    now_s = 0.0
    seconds: list[float] = []
    driver = Driver(limits(num_blocks=600, max_step_tokens=512, max_context=2100), random=True)
    run = driver.runner.run

    def run_slowly(step: Step) -> np.ndarray:
        nonlocal now_s
        num_rows = len(step.query_starts) - 1
        seconds.append(SMALL(num_rows, len(step.token_ids) - num_rows))
        now_s += seconds[-1]
        return run(step)

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(driver.runner, "run", run_slowly)
    driver.core.submit(request("decoding", "Hi", max_tokens=300, ignore_eos=True))
    for _ in range(30):
        driver.step()
    num_before = len(seconds)
    driver.core.submit(request("long", [i % 251 for i in range(2000)], max_tokens=1))
    while not driver.of("long"):
        driver.step()
    assert max(seconds[num_before:]) <= 3 * SMALL(1, 0)
    assert sum(seconds[num_before:]) <= 2.0 * SMALL(1, 2000)


@pytest.mark.parametrize(("late_s", "expected"), [(-1.0, [(2, 1), (2, 3)]), (60.0, [(2, 0), (2, 0)])])
def test_as_many_wait_as_are_late_and_have_places(
    late_s: float, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_serving.engine.policy.LATE_S", late_s)
    asked: list[tuple[int, int]] = []

    class Budget(PrefillBudget):
        def num_tokens(self, num_rows: int, num_waiting: int = 1) -> int:
            asked.append((num_rows, num_waiting))
            return 4

    driver = Driver(limits(max_sequences=5), random=True)
    driver.core.scheduler.budget = Budget(step_s=1.0)
    for name in ("a", "b"):
        driver.core.submit(request(name, "Hi", max_tokens=40, ignore_eos=True))
    driver.step()
    driver.core.submit(request("c", "a prompt of two dozen bytes", max_tokens=1))
    driver.step()
    for i in range(7):
        driver.core.submit(request(f"d{i}", f"{i} prompt of two dozen bytes", max_tokens=1))
    driver.step()
    assert asked == expected


def test_the_same_observations_give_the_same_budgets():
    def budgets() -> list[int]:
        budget = PrefillBudget(step_s=0.06)
        result = []
        for i in range(100):
            budget.costs.observe(1 + i % 3, i % 20, 0.001 * (i * 7919 % 13 + 1))
            result.append(budget.num_tokens(2))
        return result

    assert budgets() == budgets()
