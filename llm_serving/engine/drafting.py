"""Who guesses for whom: a constraint what it forces, the text what it repeats, a draft model the rest."""

from __future__ import annotations

from llm_serving.engine.budget import PrefillBudget
from llm_serving.engine.draft_length import (
    LEAST_EXPECTED,
    MOST_DRAFTED,
    TRIAL,
    Allowance,
    DraftCosts,
    best_length,
    saved_s,
)
from llm_serving.engine.draft_model import DraftModel
from llm_serving.engine.sequence import Sequence
from llm_serving.engine.speculation import MAX_DRAFTING


class Drafting:
    """Drafts for the sequences of a step, none longer than pays. Engine thread only."""

    def __init__(self, budget: PrefillBudget) -> None:
        self.budget = budget
        self.model: DraftModel | None = None
        self._allowance = Allowance()
        self._guessed: set[Sequence] = set()  # those whose draft is the model's

    def propose(self, sequences: list[Sequence], num_running: int, room: int) -> dict[Sequence, list[int]]:
        """Up to `room` tokens for all of these, each of which decodes.

        Guesses are for few: beyond, a step's rows are better used for the sequences themselves.
        """
        drafts: dict[Sequence, list[int]] = {}
        without: list[Sequence] = []
        self._guessed.clear()
        for sequence in sequences:
            if num_running > MAX_DRAFTING and sequence.request.constraint is None:
                continue
            if draft := sequence.propose_draft(room):
                drafts[sequence] = draft
                room -= len(draft)
            else:
                without.append(sequence)
        if self.model is not None and num_running <= MAX_DRAFTING:
            without = [sequence for sequence in without if self.model.may_guess(sequence)]
            drafts.update(self._guess(self.model, without, len(sequences), room))
        return drafts

    def record(self, sequence: Sequence, num_accepted: int) -> None:
        """What became of the sequence's draft of this step."""
        if self.model is not None and sequence in self._guessed:
            self.model.record(sequence, len(sequence.draft_ids), num_accepted)
        else:
            sequence.record_draft(num_accepted)

    def leave(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._guessed.discard(sequence)
        if self.model is not None:
            self.model.leave(sequence)

    def take_seconds(self) -> float:
        """Time that the draft model has taken since the last call."""
        return self.model.take_seconds() if self.model is not None else 0.0

    def _guess(
        self, model: DraftModel, sequences: list[Sequence], num_rows: int, room: int
    ) -> dict[Sequence, list[int]]:
        costs = self._costs(model, num_rows)
        read = int(self.budget.prompt_s(num_rows) / costs.read_s)
        lengths: dict[Sequence, int] = {}
        for sequence in sequences:
            most = min(room // len(sequences), sequence.num_left - 1, MOST_DRAFTED)
            most = min(most, model.max_tokens - sequence.num_tokens)
            length = self._length(model, sequence, costs, most, read)
            if length:
                lengths[sequence] = length
            else:
                self._allowance.earn(costs.step_s)
        drafts = model.propose(lengths, read) if lengths else {}
        self._guessed.update(drafts)
        return drafts

    def _costs(self, model: DraftModel, num_rows: int) -> DraftCosts:
        step_s = self.budget.costs.decode_s(num_rows)
        return DraftCosts(
            step_s=step_s / num_rows,
            row_s=self.budget.costs.decode_s(num_rows + 1) - step_s,
            token_s=model.costs.decode_s(num_rows) / num_rows,
            read_s=model.costs.prompt_token_s,
        )

    def _length(self, model: DraftModel, sequence: Sequence, costs: DraftCosts, most: int, read: int) -> int:
        """How many tokens to guess; reading what is unread must pay as well, or be allowed as a trial."""
        if most < 1:
            return 0
        unread = model.num_unread(sequence)
        rate = model.rate(sequence)
        if length := best_length(rate, costs, most):
            expected = min(len(sequence.output_ids) + LEAST_EXPECTED, sequence.num_left)
            if (unread - 1) * costs.read_s <= expected * saved_s(rate, costs, length):
                return length
        length = min(TRIAL, most)
        price_s = min(unread - 1, read) * costs.read_s
        if unread <= read:
            price_s += length * (costs.row_s + costs.token_s)
        return length if self._allowance.spend(price_s) else 0
