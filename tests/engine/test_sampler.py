from __future__ import annotations

import math
import random

import numpy as np
import pytest

from llm_serving.engine import sampler
from llm_serving.engine.protocol import SamplingRow
from llm_serving.engine.request import SamplingParams
from llm_serving.engine.sampler import NumpySampler, exp32, uniform

SAMPLER = NumpySampler()
LOGITS = np.array([2.0, -1.0, 0.5, 1.9, -3.0, 0.5, 1.0, -0.2], np.float32)


def row(
    position: int = 0, prompt: list[int] | None = None, output: list[int] | None = None, **params: object
):
    return SamplingRow(SamplingParams(max_tokens=1, **params), position, prompt or [], output or [])


def sample(logits: np.ndarray, a_row: SamplingRow) -> int:
    return SAMPLER.sample(np.array(logits, np.float32)[None], [a_row])[0]


def draw(logits: np.ndarray, count: int, **params: object) -> np.ndarray:
    """How often each token comes, over `count` positions."""
    batch = np.tile(np.asarray(logits, np.float32), (count, 1))
    prompt, output = params.pop("prompt", None), params.pop("output", None)
    tokens = SAMPLER.sample(batch, [row(i, prompt, output, **params) for i in range(count)])
    return np.bincount(tokens, minlength=len(logits))


def exact(logits: np.ndarray, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0) -> np.ndarray:
    """Probabilities by the definitions, in plain Python."""
    best = float(max(logits))
    weights = {i: math.exp((float(x) - best) / temperature) for i, x in enumerate(logits)}
    order = sorted(weights, key=lambda i: (-weights[i], i))
    if top_k:
        order = order[:top_k]
    total, mass, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        kept.append(i)
        mass += weights[i] / total
        if mass >= top_p:
            break
    kept = [i for i in kept if weights[i] >= min_p * weights[order[0]]]
    p = np.zeros(len(logits))
    p[kept] = [weights[i] for i in kept]
    p /= p.sum()
    surprises = {i: -math.log(p[i]) for i in kept}
    entropy = sum(p[i] * surprises[i] for i in kept)
    mass = 0.0
    for i in sorted(kept, key=lambda i: (abs(surprises[i] - entropy), i)):
        if mass >= typical_p:
            p[i] = 0
        else:
            mass += p[i]
    return p / p.sum()


FILTERS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 3},
    {"top_p": 0.7},
    {"min_p": 0.3},
    {"temperature": 2.0, "top_k": 6, "top_p": 0.8, "min_p": 0.2},
    {"typical_p": 0.4},
    {"typical_p": 0.9, "temperature": 2.0},
    {"typical_p": 0.01},
    {"typical_p": 0.5, "temperature": 2.0, "top_k": 6, "top_p": 0.8, "min_p": 0.2},
    {"top_k": 100},
    {"top_p": 0.01},
    {"top_k": 1},
]


@pytest.fixture
def evenly(monkeypatch: pytest.MonkeyPatch) -> int:
    """Replace the random numbers by an even grid; positions 0 … count-1 run through it once."""
    count = 400
    monkeypatch.setattr(sampler, "uniform", lambda _seed, position: (position + 0.5) / count)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_each_token_gets_its_exact_share(evenly: int, params: dict):
    p = exact(LOGITS, **params)
    assert np.abs(draw(LOGITS, evenly, **params) - evenly * p).max() <= 1


def test_penalties_change_the_shares(evenly: int):
    counts = np.array([1, 0, 0, 2, 0, 0, 0, 0])
    p = exact(LOGITS - 0.5 * counts - 0.25 * (counts > 0))
    seen = draw(LOGITS, evenly, output=[0, 3, 3], frequency_penalty=0.5, presence_penalty=0.25)
    assert np.abs(seen - evenly * p).max() <= 1


def test_biases_change_the_shares(evenly: int):
    p = exact(LOGITS + np.array([0, 2, 0, -1, 0, 0, 0, 0], np.float32))
    seen = draw(LOGITS, evenly, logit_bias=((1, 2.0), (3, -1.0)))
    assert np.abs(seen - evenly * p).max() <= 1
    assert sample(LOGITS, row(temperature=0, logit_bias=((4, 100.0),))) == 4
    assert sample(LOGITS, row(temperature=0, logit_bias=((0, -100.0),))) == 3


def test_logprobs_by_the_definition():
    p = exact(LOGITS)
    (found,) = SAMPLER.logprobs(LOGITS[None].copy(), [5], [4])
    assert found.chosen == pytest.approx(math.log(p[5]), abs=1e-6)
    assert [i for i, _ in found.top] == [0, 3, 6, 2], "of equals the lower id"
    assert [math.exp(logprob) for _, logprob in found.top] == pytest.approx(p[[0, 3, 6, 2]], rel=1e-6)
    (found,) = SAMPLER.logprobs(np.array([[np.nan, -np.inf, 0.0]], np.float32), [0], [9])
    assert (found.chosen, found.top) == (-9999.0, ((2, 0.0), (0, -9999.0), (1, -9999.0)))
    (found,) = SAMPLER.logprobs(np.full((1, 3), -np.inf, np.float32), [1], [1])
    assert (found.chosen, found.top) == (-9999.0, ((0, -9999.0),))


@pytest.mark.slow
def test_frequencies_with_real_random_numbers():
    count = 2000
    p = exact(LOGITS)
    chi_square = ((draw(LOGITS, count, seed=5) - count * p) ** 2 / (count * p)).sum()
    assert chi_square < 30, "99.99 % of honest draws over 8 tokens are below"


def test_greedy_takes_the_lowest_of_equals():
    assert sample([1.0, 3.0, 3.0, 2.0], row(temperature=0)) == 1
    assert sample([1.0, 3.0, 3.0, 2.0], row(temperature=0, presence_penalty=0.1, output=[3])) == 1


def test_top_k_takes_the_lowest_of_equals():
    seen = draw([0.0, 1.0, 1.0, 1.0], 100, top_k=2)
    assert seen[1] > 0
    assert seen[2] > 0
    assert seen[0] == seen[3] == 0


def test_top_p_includes_the_token_that_crosses():
    probabilities = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    assert (draw(probabilities, 100, top_p=0.6) > 0).tolist() == [True, True, False]
    assert (draw(probabilities, 100, top_p=0.45) > 0).tolist() == [True, False, False]


def test_top_p_beyond_the_first_candidates(monkeypatch: pytest.MonkeyPatch):
    """Distributions over many tokens: far more than the first few hundred are in the nucleus."""
    even = np.zeros(6000, np.float32)
    falling = -np.arange(6000, dtype=np.float32) / 1000
    for logits, top_p in ((even, 0.5), (falling, 0.9)):
        last = np.flatnonzero(exact(logits, top_p=top_p)).max()
        monkeypatch.setattr(sampler, "uniform", lambda _seed, _position: 1.0 - 2.0**-53)
        assert abs(sample(logits, row(top_p=top_p)) - last) <= 1
        assert last > 2048


def test_penalties():
    def chosen(**params):
        return sample([2.0, 1.9, -1.0], row(temperature=0, **params))

    assert chosen() == 0
    assert chosen(output=[0], presence_penalty=0.2) == 1
    assert chosen(prompt=[0], presence_penalty=0.2) == 0, "presence looks at generated tokens only"
    assert chosen(output=[0], frequency_penalty=0.06) == 0
    assert chosen(output=[0, 0], frequency_penalty=0.06) == 1
    assert chosen(prompt=[0], repetition_penalty=1.1) == 1, "repetition looks at the prompt too"
    assert chosen(prompt=[0, 0, 0], output=[1], repetition_penalty=1.1) == 0, "once, however often it stands"
    assert sample([-1.0, -1.05], row(temperature=0, prompt=[0], repetition_penalty=1.2)) == 1
    assert sample([2.0, 1.0], row(temperature=0, output=[1] * 5, frequency_penalty=-0.5)) == 1


def test_broken_logits_never_raise():
    nan, inf = math.nan, math.inf
    for temperature in (0.0, 1.0):
        assert sample([nan, 1.0, nan], row(temperature=temperature)) == 1
        assert sample([nan, nan], row(temperature=temperature)) == 0
        assert sample([-inf, -inf], row(temperature=temperature)) == 0
        assert sample([0.0, inf, nan], row(temperature=temperature)) == 1
        assert sample([-inf, 0.0, -inf], row(temperature=temperature)) == 1
    assert (
        sample([inf, -inf, nan], row(top_k=2, top_p=0.5, min_p=0.1, repetition_penalty=1e-30, output=[0]))
        == 0
    )
    assert sample([3e38, -3e38], row(temperature=1e-30)) == 0
    assert sample([-3e38, -3e38], row(temperature=0, frequency_penalty=2.0, output=[0] * 99)) in (0, 1)


def test_a_token_of_no_probability_is_never_drawn():
    logits = [-math.inf, 0.0, -math.inf, 0.0, -math.inf]
    assert (draw(logits, 100) > 0).tolist() == [False, True, False, True, False]


def test_same_seed_same_token_at_any_place_in_any_batch():
    rng = np.random.default_rng(0)
    rows = [
        row(position, output=[1, 2], seed=position * 977, **params)
        for position, params in enumerate([*FILTERS, {"temperature": 0.0}, {"repetition_penalty": 1.3}])
    ]
    logits = rng.normal(size=(len(rows), 3000)).astype(np.float32)
    expected = [sample(logits[i], rows[i]) for i in range(len(rows))]
    for _ in range(3):
        order = rng.permutation(len(rows))
        assert SAMPLER.sample(logits[order], [rows[i] for i in order]) == [expected[i] for i in order]


def test_seeds_and_positions_give_different_numbers():
    numbers = {uniform(seed, position) for seed in range(100) for position in range(100)}
    assert len(numbers) == 10_000
    assert abs(sum(numbers) / 10_000 - 0.5) < 0.01
    assert all(0.0 <= number < 1.0 for number in numbers)
    neighbours = [(uniform(seed, 7), uniform(seed + 1, 7)) for seed in range(2000)]
    assert abs(np.corrcoef(np.array(neighbours).T)[0, 1]) < 0.06


def test_the_random_numbers_are_fixed_for_good():
    """A saved seed must give the same text in the next release."""
    assert [uniform(0, 0), uniform(1, 0), uniform(0, 1), uniform(2**64 - 1, 131071)] == pytest.approx(
        RECORDED, abs=0.0
    )


def test_exp_is_accurate_and_exact_where_it_matters():
    z = -np.linspace(0, 87, 20_001, dtype=np.float32)
    error = np.abs(exp32(z) / np.exp(z.astype(np.float64)) - 1)
    assert error.max() < 3e-7
    assert exp32(np.zeros(1, np.float32))[0] == 1.0
    assert exp32(np.array([-87.1, -1e30, -np.inf], np.float32)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.slow
def test_a_row_alone_equals_the_definition_step_by_step():
    """The documented arithmetic, written a second time in scalar Python: equal token for token."""
    rng = random.Random(3)
    for position in range(200):
        logits = np.array([rng.choice([0.0, 1.0, rng.uniform(-4, 4)]) for _ in range(12)], np.float32)
        params = {
            "temperature": rng.choice([0.3, 1.0, 1.7]),
            "top_k": rng.choice([0, 1, 4, 12]),
            "top_p": rng.choice([1.0, 0.8, 0.3]),
            "min_p": rng.choice([0.0, 0.1]),
            "typical_p": rng.choice([1.0, 0.9, 0.3]),
        }
        assert sample(logits, row(position, seed=9, **params)) == by_definition(logits, 9, position, **params)


def by_definition(logits, seed, position, temperature, top_k, top_p, min_p, typical_p) -> int:
    ids = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[: top_k or None]
    ids.sort()
    x = logits[ids]
    z = (x - x.max()) / np.float32(temperature)
    w = dict(zip(ids, [round(float(w) * 2**32) / 2**32 for w in exp32(z)], strict=True))
    surprise = dict(zip(ids, (-z).tolist(), strict=True))
    if top_p < 1:
        total = running = 0.0
        for i in ids:
            total += w[i]
        kept = []
        for i in sorted(ids, key=lambda i: (-w[i], i)):
            running += w[i]
            kept.append(i)
            if running >= top_p * total:
                break
        ids = sorted(kept)
    if min_p > 0:
        ids = [i for i in ids if w[i] >= min_p * max(w[j] for j in ids)]
    if typical_p < 1:
        total = sum(w[i] for i in ids)
        mean = sum(round(w[i] * surprise[i] * 2**32) / 2**32 for i in ids) / total
        kept, running = [], 0.0
        for i in sorted(ids, key=lambda i: (abs(surprise[i] - mean), i)):
            running += w[i]
            kept.append(i)
            if running >= typical_p * total:
                break
        ids = sorted(kept)
    sums, running = [], 0.0
    for i in ids:
        running += w[i]
        sums.append(running)
    target = uniform(seed, position) * running
    return next(i for i, s in zip(ids, sums, strict=True) if s > target)


RECORDED = [0.6524484863740322, 0.36818951565166946, 0.7012121095215252, 0.8258740021392166]
