"""Thoughts before a bound answer, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from llm_serving.engine.constraint import TokenConstraint
from llm_serving.engine.reasoning import ReasoningConstraint

VOCAB_SIZE, BLANK_ID, OPEN_ID, CLOSE_ID, EOS_ID = 21, 17, 18, 19, 20


class Digits:
    """Allows 3, then 4, and is then over."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    @property
    def is_over(self) -> bool:
        return self.taken == [3, 4]

    is_satisfied = is_over

    def forced(self) -> list[int]:
        return [3, 4][len(self.taken) :]

    def allowed(self, draft_ids: Sequence[int] = ()) -> np.ndarray:
        bits = np.zeros((1 + len(draft_ids), 24), np.uint8)
        for row in range(len(bits)):
            bits[row, ([3, 4] + [EOS_ID] * 9)[len(self.taken) + row]] = 1
        return np.packbits(bits, axis=1, bitorder="little")

    def accept(self, token_id: int) -> None:
        self.taken.append(token_id)


def constraint(
    answer: TokenConstraint | None, *, is_open: bool = False, budget: int | None = None
) -> ReasoningConstraint:
    return ReasoningConstraint(
        answer,
        VOCAB_SIZE,
        open_id=OPEN_ID,
        close_id=CLOSE_ID,
        eos_ids=[EOS_ID],
        token_bytes=[b"x"] * BLANK_ID + [b"\n"],
        is_open=is_open,
        budget=budget,
    )


def allowed(of: TokenConstraint, draft_ids: Sequence[int] = ()) -> list[list[int]]:
    rows = np.unpackbits(of.allowed(draft_ids), axis=1, count=VOCAB_SIZE, bitorder="little")
    return [np.flatnonzero(row).tolist() for row in rows]


NOTHING_FORBIDDEN: list[list[int]] = []
THOUGHTS = [i for i in range(VOCAB_SIZE) if i != EOS_ID]  # an answer that is bound must follow


def test_an_answer_may_come_at_once_or_behind_thoughts() -> None:
    for thoughts in ([], [OPEN_ID, 7, OPEN_ID, 9, CLOSE_ID]):
        bound = constraint(Digits())
        for i, token_id in enumerate(thoughts):
            assert allowed(bound) == ([THOUGHTS] if i else [[3, OPEN_ID]])
            assert not bound.forced()
            assert not bound.is_satisfied
            bound.accept(token_id)
        if thoughts:
            assert bound.forced() == [3, 4]
            assert allowed(bound, [3, 4]) == [[3], [4], [EOS_ID]]
        else:  # a draft would leave no choice
            assert bound.forced() == []
            assert allowed(bound) == [[3, OPEN_ID]]
        bound.accept(3)
        assert allowed(bound) == [[4]]
        assert not bound.is_over
        bound.accept(4)
        assert bound.is_over
        assert bound.is_satisfied


def test_what_looks_like_thoughts_behind_the_answers_first_token_is_the_answers() -> None:
    digits = Digits()
    bound = constraint(digits)
    bound.accept(3)
    bound.accept(OPEN_ID)
    assert digits.taken == [3, OPEN_ID]


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_budget_ends_thoughts(budget: int) -> None:
    for answer in (Digits(), None):
        bound = constraint(answer, is_open=True, budget=budget)
        for _ in range(budget):
            assert allowed(bound) == ([THOUGHTS] if answer else NOTHING_FORBIDDEN)
            bound.accept(7)
        assert allowed(bound) == [[CLOSE_ID]]
        bound.accept(CLOSE_ID)
        assert allowed(bound) == ([[3]] if answer else NOTHING_FORBIDDEN)


def test_without_a_bound_answer_nothing_else_is_forbidden_and_it_may_end_anywhere() -> None:
    bound = constraint(None, budget=2)
    assert allowed(bound) == NOTHING_FORBIDDEN
    for token_id in (OPEN_ID, 1, CLOSE_ID, 5, 5, 5):
        assert not bound.is_over
        assert bound.is_satisfied
        assert not bound.forced()
        bound.accept(token_id)
    assert allowed(bound) == NOTHING_FORBIDDEN


def test_blanks_may_stand_before_thoughts_that_have_a_budget() -> None:
    bound = constraint(None, budget=1)
    for token_id in (BLANK_ID, BLANK_ID, OPEN_ID, 7):
        assert allowed(bound) == NOTHING_FORBIDDEN
        bound.accept(token_id)
    assert allowed(bound) == [[CLOSE_ID]]
    bound = constraint(None, budget=0)
    for token_id in (BLANK_ID, 7, OPEN_ID):  # behind a word, the tag is a word, too
        bound.accept(token_id)
        assert allowed(bound) == NOTHING_FORBIDDEN
