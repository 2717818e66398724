"""Cuts of tokens into two tokens: found at once for all, and the same as by trying each."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llm_serving.checkpoints import token_splits
from llm_serving.checkpoints.token_splits import split_tokens, split_tokens_plainly

ALPHABETS = ["a", "ab", "▁ab", "é中🤖▁\ufdd0", "".join(map(chr, range(0x370, 0x3F0)))]


def vocabulary(alphabet: str, seed: int) -> list[str]:
    """Letters and random joins of two tokens, as training makes them, in a random order."""
    choose = random.Random(seed)
    tokens = dict.fromkeys(alphabet)
    for _ in range(choose.choice([3, 40, 300])):
        joined = choose.choice(list(tokens)) + choose.choice(list(tokens))
        tokens.setdefault(joined[:60])
    shuffled = list(tokens)
    choose.shuffle(shuffled)
    return shuffled


def assert_equal(tokens: list[str]) -> int:
    found, expected = split_tokens(tokens), split_tokens_plainly(tokens)
    for ours, plain in zip(found, expected, strict=True):
        assert ours.dtype == plain.dtype == np.int64
        np.testing.assert_array_equal(ours, plain)
    return len(found[0])


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_as_by_trying_each(alphabet: str) -> None:
    assert sum(assert_equal(vocabulary(alphabet, seed)) for seed in range(8)) > 100


def test_small_vocabularies() -> None:
    assert [assert_equal(tokens) for tokens in ([], [""], ["a"], ["aa"], ["", "a"])] == [0] * 5
    whole, left, right = split_tokens(["ba", "a", "b", "bab"])
    assert (whole.tolist(), left.tolist(), right.tolist()) == ([0, 3], [2, 0], [1, 2])


def test_the_longest_tokens() -> None:
    assert assert_equal(["x" * n for n in range(1, 200)]) == 198 * 199 // 2


def test_halves_of_surrogate_pairs_are_letters_like_others() -> None:
    assert assert_equal(["\ud800", "\udc00", "\ud800\udc00"]) == 1


@pytest.mark.parametrize("bits", [0, 1, 6])
def test_fingerprints_that_are_equal_by_chance(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Of few bits, they are equal for many tokens, or for stretches that are none."""
    monkeypatch.setattr(token_splits, "_stir", lambda values: values & np.uint64((1 << bits) - 1))
    for seed in range(20):
        assert_equal(vocabulary("ab", seed))
        assert_equal(["a", "b", "ac"])
