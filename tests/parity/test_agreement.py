"""The measure of agreement, on numbers small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import Agreement, compare, windows


def test_by_hand() -> None:
    theirs = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]], np.float32))
    ours = np.log(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], np.float32)) + 7
    agreement = Agreement()
    agreement.add(ours, theirs, [0, 2])
    divergence = 0.2 * np.log(0.2 / 0.25) + 0.3 * np.log(0.3 / 0.5) + 0.5 * np.log(2)
    assert agreement.positions == 2
    assert agreement.top1 == 0.5
    assert agreement.mean_kl == pytest.approx(divergence / 2, rel=1e-6)
    assert agreement.our_perplexity == pytest.approx(4.0)  # one known next token, of probability 1/4
    assert agreement.their_perplexity == pytest.approx(4.0)


def test_windows_cover_the_text_and_know_nothing_of_each_other() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(10, 10)).astype(np.float32)
    seen: list[list[int]] = []

    def model(ids: list[int]) -> np.ndarray:
        seen.append(ids)
        return table[ids]

    ids = rng.integers(0, 10, 150).tolist()
    same = compare(model, lambda ids: table[ids], ids, window=70)
    assert [len(part) for part in seen] == [70, 70, 10]
    assert sum(seen, []) == ids == sum(windows(ids, 33), [])
    assert same.top1 == 1
    assert same.mean_kl == pytest.approx(0, abs=1e-12)
    assert same.predicted == 147
    assert "150 positions: top-1 agreement 100.00%" in str(same)
