"""How many tokens a draft model guesses: as many as make answers faster, by what held and what it cost.

A draft of k tokens costs k tokens of the draft model and k rows of the step. If each token holds with the
probability p, given that those before it do, it brings p + p² + … + p^k tokens (Leviathan et al. 2023).
Knows no clock: seconds are told.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_DRAFTED = 7  # tokens: with the one before them as many rows as matrix kernels take at once
TRIAL = 2  # tokens of a draft that is not expected to pay
LEAST_EXPECTED = 32  # tokens that an answer is expected to go on for, however short it is yet
_FIRST_RATE = 0.7  # hopeful: what does not help is soon found out
_WEIGHT = 6.0  # tokens that what was known before counts for
_MEMORY = 0.96  # that a token leaves of all before it
_MEMORY_OF_ALL = 0.995


@dataclass(frozen=True, slots=True)
class DraftCosts:
    """Seconds, one sequence's share of them."""

    step_s: float  # a step without a draft
    row_s: float  # a further row of it
    token_s: float  # a token of the draft model
    read_s: float  # a token that the draft model reads, many at once


class Acceptance:
    """How likely a drafted token holds if those before it do, by what became of the latest drafts."""

    def __init__(self, rate: float = _FIRST_RATE, memory: float = _MEMORY_OF_ALL) -> None:
        self._memory = memory
        self._num_held = rate * _WEIGHT
        self._num_judged = _WEIGHT

    @property
    def rate(self) -> float:
        return self._num_held / self._num_judged

    def beginning(self) -> Acceptance:
        """Of a sequence that nothing is known of: expected to be as all others, and soon its own."""
        return Acceptance(self.rate, _MEMORY)

    def record(self, num_drafted: int, num_accepted: int) -> None:
        """What became of a draft. Nothing is known of the tokens behind the first that was wrong."""
        num_judged = min(num_drafted, num_accepted + 1)
        kept = self._memory**num_judged
        self._num_held = kept * self._num_held + num_accepted
        self._num_judged = kept * self._num_judged + num_judged


def best_length(rate: float, costs: DraftCosts, most: int) -> int:
    """Up to `most` tokens whose draft makes for the most tokens a second; 0 if none does."""
    best, least_s = 0, costs.step_s
    tokens = held = 1.0
    for length in range(1, most + 1):
        held *= rate
        tokens += held
        token_s = (costs.step_s + length * (costs.row_s + costs.token_s)) / tokens
        if token_s < least_s:
            best, least_s = length, token_s
    return best


def saved_s(rate: float, costs: DraftCosts, length: int) -> float:
    """Seconds that drafts of this length are expected to save with each token of the answer."""
    tokens = sum(rate**k for k in range(length + 1))
    return costs.step_s - (costs.step_s + length * (costs.row_s + costs.token_s)) / tokens


class Allowance:
    """Seconds that may be lost on drafts which are not expected to pay: a share of those spent without."""

    SHARE = 0.02
    MOST_STEPS = 8.0  # that can be saved up: no long stretch of vain drafts may follow a long one without

    def __init__(self) -> None:
        self._seconds = 0.0

    def earn(self, step_s: float) -> None:
        """A step without a draft."""
        self._seconds = min(self._seconds + self.SHARE * step_s, self.MOST_STEPS * step_s)

    def spend(self, seconds: float) -> bool:
        """Take so much, if it is there."""
        if seconds > self._seconds:
            return False
        self._seconds -= seconds
        return True
