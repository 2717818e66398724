"""A small model of the same vocabulary that says what a large one may say next. Engine thread only."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np

from llm_serving.engine.budget import StepCosts
from llm_serving.engine.draft_length import Acceptance
from llm_serving.engine.protocol import ModelRunner, Sampler, SamplingRow, Step
from llm_serving.engine.sequence import Sequence
from llm_serving.engine.speculation import MAX_DRAFTING
from llm_serving.errors import InvalidRequest

FIRST_READ = 16  # tokens at once, then twice as many each time: meanwhile their cost is learnt


class _Place:
    """Blocks of the draft model, the tokens whose keys and values are in them, and whose they are now.

    What a sequence that has ended left behind is of use to the next one of the same conversation.
    """

    __slots__ = ("table", "token_ids", "num_agreed", "owner", "is_foreign", "acceptance")

    def __init__(self, table: np.ndarray) -> None:
        self.table = table  # int32 [1, blocks]
        self.token_ids: list[int] = []
        self.num_agreed = 0  # leading tokens that are known to be the owner's
        self.owner: Sequence | None = None
        self.is_foreign = False  # the owner has tokens that the model does not know
        self.acceptance = Acceptance()

    def agree(self, token_ids: list[int]) -> int:
        """How many leading tokens are these. Their last never counts: what follows it is asked for."""
        count, end = self.num_agreed, min(len(self.token_ids), len(token_ids) - 1)
        pairs = zip(islice(self.token_ids, count, end), islice(token_ids, count, end), strict=True)
        for own, other in pairs:
            if own != other:
                break
            count += 1
        self.num_agreed = count
        return count


class DraftModel:
    """Guesses for up to `MAX_DRAFTING` sequences at once, each by the request's own way of sampling.

    The sampler's random number is a function of seed and position, so a model that agreed with the large one
    would choose the same tokens at any temperature. The runner's blocks are cut into as many places, which
    hold a sequence each; what was guessed wrong is written anew, as in the large model.

    `vocab_size` is the large model's. Neither model is shown a token that it does not have.
    Raises: InvalidRequest for a runner in which a token cannot replace another.
    """

    def __init__(self, runner: ModelRunner, sampler: Sampler, vocab_size: int) -> None:
        limits = runner.limits
        if not limits.takes_drafts:
            raise InvalidRequest(
                "The draft model cannot take back a wrong guess. Choose one of another family, or none.",
                "draft_model",
            )
        each = limits.num_blocks // MAX_DRAFTING
        blocks = np.arange(each * MAX_DRAFTING, dtype=np.int32).reshape(MAX_DRAFTING, 1, each)
        self.costs = StepCosts()
        self.acceptance = Acceptance()  # of all sequences
        self.max_tokens = min(limits.max_context, each * limits.block_size)  # of a sequence
        self._runner = runner
        self._sampler = sampler
        self._vocab_size = vocab_size
        self._places = [_Place(table) for table in blocks]  # who was given to an owner last comes last
        self._most_read = FIRST_READ
        self._seconds = 0.0

    def may_guess(self, sequence: Sequence) -> bool:
        """Whether the model can go on with this sequence: no form, no picture, room, only tokens it has."""
        request = sequence.request
        return (
            request.constraint is None
            and not request.given
            and len(sequence.token_ids) < self.max_tokens
            and not self._place(sequence).is_foreign
        )

    def num_unread(self, sequence: Sequence) -> int:
        """How many tokens have to be read before anything is guessed; at least one."""
        return len(sequence.token_ids) - self._place(sequence).agree(sequence.token_ids)

    def rate(self, sequence: Sequence) -> float:
        """How likely a guess holds."""
        return self._place(sequence).acceptance.rate

    def record(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """What became of a draft."""
        for acceptance in (self.acceptance, self._place(sequence).acceptance):
            acceptance.record(num_drafted, num_accepted)

    def leave(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        for place in self._places:
            if place.owner is sequence:
                place.owner = None

    def take_seconds(self) -> float:
        """Time spent since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def propose(self, lengths: dict[Sequence, int], most_read: int) -> dict[Sequence, list[int]]:
        """What may follow each of up to `MAX_DRAFTING` sequences that `may_guess`, up to `lengths` tokens.

        Before, it reads up to `most_read` tokens of them together, at least one of each. Nothing is guessed
        yet for those that have more.
        """
        drafts = self._read(lengths, most_read)
        while going_on := [s for s, draft in drafts.items() if self._goes_on(s, draft, lengths[s])]:
            last_ids = {sequence: drafts[sequence][-1:] for sequence in going_on}
            for sequence, token_id in zip(going_on, self._run(last_ids, drafts), strict=True):
                drafts[sequence].append(token_id)
        for draft in drafts.values():
            if draft[-1] >= self._vocab_size:
                draft.pop()
        return {sequence: draft for sequence, draft in drafts.items() if draft}

    def close(self) -> None:
        """Give the runner's memory back. Safe to call twice."""
        self._runner.close()

    def _read(self, lengths: dict[Sequence, int], most: int) -> dict[Sequence, list[int]]:
        """Read on, and guess a token for each that is through."""
        room = self._runner.limits.max_step_tokens - MAX_DRAFTING  # each has one token at least
        left = min(most, self._most_read, room)
        added: dict[Sequence, list[int]] = {}
        drafts: dict[Sequence, list[int]] = {}
        for sequence in lengths:
            place = self._place(sequence)
            start = place.agree(sequence.token_ids)
            end = min(start + max(1, left), len(sequence.token_ids))
            token_ids = sequence.token_ids[start:end]
            if max(token_ids) >= self._known_below(sequence):
                place.is_foreign = True
                continue
            del place.token_ids[start:]
            added[sequence] = token_ids
            left -= len(token_ids)
            if end == len(sequence.token_ids):
                drafts[sequence] = []
        if left <= 0:
            self._most_read = min(2 * self._most_read, room)
        if added:
            for sequence, token_id in zip(drafts, self._run(added, drafts), strict=True):
                drafts[sequence].append(token_id)
        return drafts

    def _known_below(self, sequence: Sequence) -> int:
        """The first id that cannot be read; 0 if the request names one that cannot be chosen either."""
        known = self._runner.limits.vocab_size
        return 0 if any(token_id >= known for token_id, _ in sequence.request.sampling.logit_bias) else known

    def _goes_on(self, sequence: Sequence, draft: list[int], length: int) -> bool:
        """Nothing is guessed behind an end, nor behind a token that is not the large model's."""
        ends = draft[-1] in sequence.request.eos_ids
        return len(draft) < length and not ends and draft[-1] < self._vocab_size

    def _run(self, added: dict[Sequence, list[int]], drafts: dict[Sequence, list[int]]) -> list[int]:
        """Compute tokens that follow on those of each place; a token behind those of each in `drafts`."""
        began_s = time.monotonic()
        places = [self._place(sequence) for sequence in added]
        asked = [sequence in drafts for sequence in added]
        step = _step(places, list(added.values()), asked, self._runner.limits.block_size)
        logits = self._runner.run(step)
        for place, token_ids in zip(places, added.values(), strict=True):
            place.token_ids += token_ids
        rows = [_row(sequence, drafts[sequence]) for sequence in added if sequence in drafts]
        chosen_ids = self._sampler.sample(logits, rows) if rows else []
        seconds = time.monotonic() - began_s
        self._seconds += seconds
        self.costs.observe(len(rows), len(step.token_ids) - len(rows), seconds)
        return chosen_ids

    def _place(self, sequence: Sequence) -> _Place:
        """The sequence's own, or else the one that has most of it; there is one that nobody needs."""
        for place in self._places:
            if place.owner is sequence:
                return place
        free = [place for place in self._places if place.owner is None] or self._places[:1]
        for place in free:
            place.num_agreed = 0
        place = max(free, key=lambda place: place.agree(sequence.token_ids))
        self._places.remove(place)
        self._places.append(place)
        place.owner, place.is_foreign = sequence, False
        place.acceptance = self.acceptance.beginning()
        return place


def _step(places: list[_Place], added: list[list[int]], asked: list[bool], block_size: int) -> Step:
    """So many further tokens of each place; logits of the last of those that are asked for."""
    counts = [len(token_ids) for token_ids in added]
    begins = [len(place.token_ids) for place in places]
    ends = [begin + count for begin, count in zip(begins, counts, strict=True)]
    width = -(-max(ends) // block_size)
    starts = np.cumsum([0, *counts], dtype=np.int32)
    spans = [np.arange(begin, end, dtype=np.int32) for begin, end in zip(begins, ends, strict=True)]
    return Step(
        token_ids=np.concatenate([np.array(token_ids, np.int32) for token_ids in added]),
        positions=np.concatenate(spans),
        query_starts=starts,
        block_tables=np.concatenate([place.table[:, :width] for place in places]),
        logit_rows=starts[1:][asked] - 1,
    )


def _row(sequence: Sequence, draft: list[int]) -> SamplingRow:
    """For the token behind a draft, as the sequence's own sampling would have it."""
    request = sequence.request
    position = len(sequence.token_ids) + len(draft)
    return SamplingRow(request.sampling, position, request.prompt_ids, sequence.output_ids + draft)
