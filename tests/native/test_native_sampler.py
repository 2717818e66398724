"""The compiled sampler equals the numpy sampler token for token, on every ISA and thread count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from llm_serving.engine.protocol import SamplingRow
from llm_serving.engine.request import SamplingParams, TokenLogprobs
from llm_serving.engine.sampler import NumpySampler
from llm_serving.native.core import load_core
from llm_serving.native.sampler import NativeSampler

ISAS = load_core().instruction_sets()
REFERENCE = NumpySampler()


@pytest.fixture(params=[(isa, threads) for isa in ISAS for threads in (1, 3)], ids=str)
def sampler(request: pytest.FixtureRequest) -> NativeSampler:
    isa, threads = request.param
    return NativeSampler(threads, isa)


@dataclass(frozen=True)
class Case:
    """Logits, what is asked of them, and the reference's answer, which every sampler is compared with."""

    logits: np.ndarray
    rows: list[SamplingRow]
    expected: list[int]

    @classmethod
    def of(cls, logits: np.ndarray, rows: list[SamplingRow]) -> Case:
        with np.errstate(all="ignore"):
            return cls(logits, rows, REFERENCE.sample(logits.copy(), rows))


def assert_equal(sampler: NativeSampler, case: Case) -> list[int]:
    rows, expected = case.rows, case.expected
    tokens = sampler.sample(case.logits.copy(), rows)
    wrong = [(rows[i].params, a, b) for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b]
    assert wrong == []
    return tokens


def random_params(rng: np.random.Generator, vocab: int) -> SamplingParams:
    def one_of(*values: float) -> float:
        return float(rng.choice(values))

    biased = rng.permutation(vocab)[: int(rng.choice([0, 0, 1, 5]))]
    return SamplingParams(
        max_tokens=1,
        temperature=one_of(0.0, 1e-7, 0.2, 0.7, 1.0, 2.0),
        top_k=int(rng.choice([0, 0, 1, 2, 40, vocab // 2, vocab - 1, vocab, vocab + 1])),
        top_p=one_of(1.0, 1.0, 0.0, 1e-9, 0.3, 0.9, 0.999999, 1 - 2**-53),
        min_p=one_of(0.0, 0.0, 1e-12, 0.05, 0.5, 1.0),
        typical_p=one_of(1.0, 1.0, 0.0, 1e-9, 0.2, 0.9, 1 - 2**-53),
        repetition_penalty=one_of(1.0, 1.0, 1.3, 0.5, 1e-30, 1e30),
        presence_penalty=one_of(0.0, 0.0, 0.5, -2.0),
        frequency_penalty=one_of(0.0, 0.0, 0.1, -0.3),
        seed=int(rng.integers(2**64, dtype=np.uint64)),
        logit_bias=tuple((int(i), one_of(-100.0, 0.3, 5.0, 100.0)) for i in biased),
    )


def random_row(rng: np.random.Generator, vocab: int) -> SamplingRow:
    prompt = rng.integers(0, vocab, rng.integers(50)).tolist()
    output = rng.integers(0, max(1, vocab // 100), rng.integers(50)).tolist()
    return SamplingRow(random_params(rng, vocab), int(rng.integers(100_000)), prompt, output)


def random_logits(rng: np.random.Generator, vocab: int) -> np.ndarray:
    """Steep, flat, tied, constant, ascending, masked or broken."""
    kind = rng.integers(9)
    x = rng.normal(0, rng.choice([0.01, 1.0, 4.0, 30.0]), vocab)
    if kind == 0:
        x = np.round(x)
    elif kind == 1:
        x = np.full(vocab, rng.choice([0.0, -0.0, 7.5, -math.inf, math.inf, math.nan, 3.4e38]))
    elif kind == 2:
        x = np.sort(x)
    elif kind == 3:
        x[rng.random(vocab) < 0.9] = -math.inf
    elif kind == 4:
        spoiled = rng.random(vocab) < 0.1
        x[spoiled] = rng.choice([math.nan, math.inf, -math.inf, 0.0, -0.0, 3.4e38, -3.4e38], spoiled.sum())
    elif kind == 5:
        x = rng.choice([0.0, -0.0, -1.0, -22.5, -22.9, -87.0], vocab)
    return x.astype(np.float32)


@cache
def random_cases(vocab: int, rounds: int) -> list[Case]:
    rng = np.random.default_rng(vocab)
    cases = []
    for _ in range(rounds):
        rows = [random_row(rng, vocab) for _ in range(12)]
        cases.append(Case.of(np.stack([random_logits(rng, vocab) for _ in rows]), rows))
    return cases


@pytest.mark.parametrize(("vocab", "rounds"), [(1, 40), (7, 60), (8, 60), (33, 60), (1000, 40), (49152, 1)])
def test_equal_to_the_reference(sampler: NativeSampler, vocab: int, rounds: int) -> None:
    for case in random_cases(vocab, rounds):
        assert_equal(sampler, case)


@cache
def large_case(scale: float) -> Case:
    vocab = 151_936
    rng = np.random.default_rng(4)
    choices = [
        {"temperature": 0.0},
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"top_k": 40},
        {"top_k": 60_000, "min_p": 0.01},
        {"typical_p": 0.5},
        {"typical_p": 0.99, "top_p": 0.95, "temperature": 1.3},
        {"temperature": 1.5, "top_p": 0.95, "repetition_penalty": 1.1, "frequency_penalty": 0.2},
    ]
    rows = [
        SamplingRow(SamplingParams(1, **params), i, rng.integers(0, vocab, 500).tolist(), [1, 2, 1])  # type: ignore[arg-type]
        for i, params in enumerate(choices)
    ]
    return Case.of(rng.normal(0, scale, (len(rows), vocab)).astype(np.float32), rows)


@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_equal_to_the_reference_on_a_large_vocabulary(sampler: NativeSampler, scale: float) -> None:
    assert len(set(assert_equal(sampler, large_case(scale)))) > 1


@cache
def logprob_cases(
    vocab: int, rounds: int
) -> list[tuple[np.ndarray, list[int], list[int], list[TokenLogprobs]]]:
    rng = np.random.default_rng(vocab)
    cases = []
    for _ in range(rounds):
        logits = np.stack([random_logits(rng, vocab) for _ in range(6)])
        tokens = rng.integers(0, vocab, 6).tolist()
        counts = rng.choice([0, 1, 5, 20, vocab + 1], 6).tolist()
        with np.errstate(all="ignore"):
            expected = REFERENCE.logprobs(logits.copy(), tokens, counts)
        cases.append((logits, tokens, counts, expected))
    return cases


@pytest.mark.parametrize(("vocab", "rounds"), [(1, 40), (7, 60), (8, 60), (33, 60), (1000, 40), (49152, 2)])
def test_logprobs_equal_the_reference(sampler: NativeSampler, vocab: int, rounds: int) -> None:
    for logits, tokens, counts, expected in logprob_cases(vocab, rounds):
        assert sampler.logprobs(logits.copy(), tokens, counts) == expected


@cache
def many_draws() -> Case:
    """From one distribution: block borders of the search, first and last tokens."""
    rng = np.random.default_rng(5)
    logits = np.tile(rng.normal(0, 0.1, 700).astype(np.float32), (400, 1))
    return Case.of(logits, [SamplingRow(SamplingParams(1, seed=11), i, [], []) for i in range(400)])


def test_every_number_that_can_be_drawn_finds_its_token(sampler: NativeSampler) -> None:
    assert len(set(assert_equal(sampler, many_draws()))) > 250


def test_other_columns_of_a_wider_array_are_left_out(sampler: NativeSampler) -> None:
    wide = np.zeros((2, 20), np.float32)
    wide[:, 10:] = 5.0
    wide[0, 3] = wide[1, 4] = 1.0
    rows = [SamplingRow(SamplingParams(1, temperature=0.0), 0, [], [])] * 2
    assert sampler.sample(wide[:, :10], rows) == [3, 4]


def test_misuse_is_refused() -> None:
    sampler = NativeSampler()
    greedy = SamplingRow(SamplingParams(1, temperature=0.0), 0, [], [])
    with pytest.raises(ValueError, match="do not fit"):
        sampler.sample(np.zeros((2, 4), np.float32), [greedy])
    with pytest.raises(ValueError, match="do not fit"):
        sampler.sample(np.zeros((1, 0), np.float32), [greedy])
    for foreign in (4, -1):
        penalised = SamplingRow(SamplingParams(1, presence_penalty=1.0), 0, [], [foreign])
        with pytest.raises(ValueError, match="outside the vocabulary"):
            sampler.sample(np.zeros((1, 4), np.float32), [penalised])
        biased = SamplingRow(SamplingParams(1, logit_bias=((foreign, 1.0),)), 0, [], [])
        with pytest.raises(ValueError, match="outside the vocabulary"):
            sampler.sample(np.zeros((1, 4), np.float32), [biased])
        with pytest.raises(ValueError, match="outside the vocabulary"):
            sampler.logprobs(np.zeros((1, 4), np.float32), [foreign], [1])
    with pytest.raises(ValueError, match="counts do not fit"):
        sampler.logprobs(np.zeros((1, 4), np.float32), [1], [])
    with pytest.raises(ValueError, match="not available"):
        NativeSampler(isa="none")
    assert sampler.sample(np.zeros((0, 4), np.float32), []) == []
