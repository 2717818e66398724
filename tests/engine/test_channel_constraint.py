"""Messages on channels: which headers may come, what is bound behind them, how long thoughts may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from llm_serving.engine.channels import Channel, ChannelConstraint, ChannelIds
from llm_serving.engine.constraint import TokenConstraint

START, ASSISTANT, CHANNEL, MESSAGE, END, EOS = range(6)
ANALYSIS, FINAL, COMMENTARY, TO = range(6, 10)
ONE, TWO, WORD = 10, 11, 12
VOCAB_SIZE = 13
IDS = ChannelIds(
    (START, ASSISTANT),
    {
        Channel.ANALYSIS: (CHANNEL, ANALYSIS, MESSAGE),
        Channel.FINAL: (CHANNEL, FINAL, MESSAGE),
        Channel.PREAMBLE: (CHANNEL, COMMENTARY, MESSAGE),
        Channel.CALL: (CHANNEL, COMMENTARY, TO),
    },
    END,
)
# A message under way does not begin another; one that must come is not left out.
FREE = [i for i in range(VOCAB_SIZE) if i not in (START, CHANNEL, MESSAGE)]
BOUND = [i for i in FREE if i != EOS]


class OneTwo:
    """A `TokenConstraint`: exactly these tokens."""

    def __init__(self) -> None:
        self.rest = [ONE, TWO]

    @property
    def is_over(self) -> bool:
        return not self.rest

    is_satisfied = is_over

    def forced(self) -> list[int]:
        return list(self.rest)

    def allowed(self, draft_ids: Sequence[int] = ()) -> np.ndarray:
        rows = np.zeros((1 + len(draft_ids), VOCAB_SIZE), np.uint8)
        for row, token_id in enumerate([*self.rest, EOS][: len(rows)]):
            rows[row, token_id] = 1
        return np.packbits(rows, axis=1, bitorder="little")

    def accept(self, token_id: int) -> None:
        assert token_id == self.rest.pop(0)


def constraint(
    answer: TokenConstraint | None,
    bound: Channel | None = None,
    *,
    is_required: bool = True,
    budget: int | None = None,
) -> ChannelConstraint:
    return ChannelConstraint(
        answer, VOCAB_SIZE, IDS, bound=bound, is_required=is_required, eos_ids=[EOS], budget=budget
    )


def allowed(of: TokenConstraint) -> list[int] | None:
    rows = np.unpackbits(of.allowed(), axis=1, count=VOCAB_SIZE, bitorder="little")
    return np.flatnonzero(rows[0]).tolist() if len(rows) else None


def walk(of: TokenConstraint, steps: Sequence[tuple[int, Sequence[int] | None]]) -> None:
    """Take each token where these are allowed."""
    for token_id, expected in steps:
        assert allowed(of) == (None if expected is None else sorted(expected))
        assert not of.is_over
        of.accept(token_id)


THOUGHT = [
    (CHANNEL, [CHANNEL]), (ANALYSIS, [ANALYSIS, FINAL]), (MESSAGE, [MESSAGE]),
    (WORD, BOUND), (END, BOUND), (START, [START]), (ASSISTANT, [ASSISTANT]),
]  # fmt: skip


@pytest.mark.parametrize("thoughts", [0, 1, 2])
def test_a_form_binds_the_final_channel(thoughts: int) -> None:
    bound = constraint(OneTwo(), Channel.FINAL)
    for _ in range(thoughts):
        walk(bound, THOUGHT)
    walk(bound, [(CHANNEL, [CHANNEL]), (FINAL, [ANALYSIS, FINAL])])
    assert bound.forced() == []
    assert not bound.is_satisfied
    walk(bound, [(MESSAGE, [MESSAGE])])
    assert bound.forced() == [ONE, TWO]
    assert len(bound.allowed([ONE, TWO])) == 3
    walk(bound, [(ONE, [ONE]), (TWO, [TWO])])
    assert bound.is_over
    assert bound.is_satisfied


def test_a_call_that_is_required_is_made() -> None:
    bound = constraint(OneTwo(), Channel.CALL)
    walk(bound, [(CHANNEL, [CHANNEL]), (COMMENTARY, [ANALYSIS, COMMENTARY]), (TO, [TO]), (ONE, [ONE])])
    assert allowed(bound) == [TWO]


def test_a_call_that_is_bound_leaves_the_answer_free() -> None:
    bound = constraint(OneTwo(), Channel.CALL, is_required=False)
    any_channel = [ANALYSIS, FINAL, COMMENTARY]
    walk(bound, [(CHANNEL, [CHANNEL]), (COMMENTARY, any_channel), (MESSAGE, [MESSAGE, TO])])
    walk(bound, [(WORD, BOUND), (END, BOUND), (START, [START]), (ASSISTANT, [ASSISTANT])])
    assert not bound.is_satisfied
    walk(bound, [(CHANNEL, [CHANNEL]), (FINAL, any_channel), (MESSAGE, [MESSAGE])])
    assert bound.is_satisfied
    walk(bound, [(END, None), (START, None), (EOS, None)])  # nothing comes behind the answer


@pytest.mark.parametrize("budget", [1, 3])
def test_a_budget_ends_thoughts_for_good(budget: int) -> None:
    bound = constraint(None, is_required=False, budget=budget)
    assert bound.is_satisfied
    walk(bound, [(CHANNEL, [CHANNEL]), (ANALYSIS, [ANALYSIS, FINAL, COMMENTARY]), (MESSAGE, [MESSAGE])])
    walk(bound, [(WORD, FREE)] * budget)
    walk(bound, [(END, [END]), (START, [START]), (ASSISTANT, [ASSISTANT])])
    walk(bound, [(CHANNEL, [CHANNEL]), (COMMENTARY, [FINAL, COMMENTARY]), (TO, [MESSAGE, TO])])
    walk(bound, [(MESSAGE, None), (WORD, None), (EOS, None)])


def test_without_a_budget_for_it_nothing_is_thought() -> None:
    bound = constraint(OneTwo(), Channel.FINAL, budget=0)
    walk(bound, [(CHANNEL, [CHANNEL]), (FINAL, [FINAL]), (MESSAGE, [MESSAGE]), (ONE, [ONE])])
