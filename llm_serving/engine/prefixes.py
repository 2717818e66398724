"""What a sequence need not compute: blocks of its prefix in the pool, and in the store behind it.

Bookkeeping on the scheduler's pool and block tables; engine thread only.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from llm_serving.engine.batch import StepBuilder
from llm_serving.engine.blocks import BlockPool, extend_chain
from llm_serving.engine.sequence import Sequence, SequenceStatus
from llm_serving.engine.spans import whole_blocks
from llm_serving.engine.states import StateSlots
from llm_serving.engine.tier import BlockTier


class PrefixCache:
    """Finds, takes over and publishes full blocks.

    With recurrent layers a prefix can be gone on from where a snapshot of the state is, and nowhere else:
    blocks behind the last of these are of no use.
    """

    def __init__(
        self,
        pool: BlockPool,
        builder: StepBuilder,
        block_size: int,
        adapters: tuple[bytes, ...] = (),
        states: StateSlots | None = None,
    ) -> None:
        self.tier: BlockTier | None = None  # whoever has one sets it before the first step
        self.num_cached_tokens = 0
        self._pool = pool
        self._builder = builder
        self._block_size = block_size
        self._adapters = adapters
        self._states = states

    def num_sharable(self, sequence: Sequence) -> int:
        """Blocks that may come from the cache.

        The last token is always computed, since its logits are wanted; so are those of prompt tokens that are
        still to be scored.
        """
        num_tokens = sequence.num_tokens - 1
        if sequence.is_scoring:
            num_tokens = len(sequence.prompt_logprobs)
        return num_tokens // self._block_size

    def num_remaining(self, sequence: Sequence) -> int:
        """Tokens to compute until the next one can be sampled, beside what the cache has."""
        if sequence.status is SequenceStatus.RUNNING:
            return sequence.num_uncomputed_tokens
        self.name_blocks(sequence)
        return sequence.num_tokens - self.num_usable(sequence) * self._block_size

    def num_usable(self, sequence: Sequence) -> int:
        """Leading blocks that the cache has, and that can be gone on from. Digests must be known."""
        # Blocks come to the cache first to last and leave it last to first: look on from where they ended.
        found, digests, pool = sequence.num_found_blocks, sequence.digests, self._pool
        while found and pool.find(digests[found - 1]) is None:
            found -= 1
        while found < self.num_sharable(sequence) and pool.find(digests[found]) is not None:
            found += 1
        sequence.num_found_blocks = found
        return self._resumable(sequence, found)

    def _resumable(self, sequence: Sequence, found: int) -> int:
        """As many of the `found` leading blocks as end outside a span and, with states, at a snapshot."""
        found = whole_blocks(sequence.spans, found, self._block_size)
        while self._states and found and not self._states.has(sequence.digests[found - 1]):
            found -= 1
        return found

    def num_shared(self, sequence: Sequence) -> int:
        """Leading blocks that others have computed, or are about to."""
        count, pool = 0, self._pool
        for digest in sequence.digests[: self.num_sharable(sequence)]:
            if pool.find(digest) is None and pool.claimant(digest) is None:
                break
            count += 1
        return count

    def num_coming(self, sequence: Sequence) -> int:
        """Leading blocks that it will not have to compute, as things stand."""
        return self.num_usable(sequence) if self._states else self.num_shared(sequence)

    def owner(self, sequence: Sequence, index: int) -> Hashable | None:
        """Who computes block `index` of this sequence, so that it can be taken over; maybe itself."""
        pool = self._pool
        if self._states is None:
            return pool.claimant(sequence.digests[index])
        while index < self.num_sharable(sequence) and pool.find(sequence.digests[index]) is not None:
            index += 1
        owner = pool.claimant(sequence.digests[index]) if index < len(sequence.digests) else None
        if not isinstance(owner, Sequence) or owner is sequence:
            return owner
        # Of another's blocks only those are of use that end at a snapshot.
        ahead = [stop for stop in owner.stops if index < stop <= self.num_sharable(sequence)]
        return owner if any(owner.digests[i - 1] == sequence.digests[i - 1] for i in ahead) else None

    def name_blocks(self, sequence: Sequence) -> None:
        """Digests of all its full blocks."""
        self._extend(sequence, sequence.num_tokens // self._block_size)

    def _extend(self, sequence: Sequence, num_blocks: int) -> None:
        request = sequence.request
        root = b"" if request.adapter is None else self._adapters[request.adapter]
        extend_chain(sequence.digests, sequence.token_ids, self._block_size, num_blocks, request.given, root)

    def adopt(self, sequence: Sequence) -> int:
        """Take over what the cache has of the uncomputed tokens, but nothing that ends in a span, or where
        there is no snapshot to go on from.

        Returns the first block that it lacks, or that may not come from it.
        """
        begin, used = divmod(sequence.num_computed_tokens, self._block_size)
        if used:
            return begin
        digests, lacking, num_sharable = sequence.digests, begin, self.num_sharable(sequence)
        while lacking < num_sharable and self._pool.find(digests[lacking]) is not None:
            lacking += 1
        # `num_usable` remembers where blocks ended; one before may have gone since. This looked at all.
        end = max(begin, self._resumable(sequence, lacking))
        if self._states:
            lacking = end
            if begin < end:
                self._states.restore(sequence, digests[end - 1])
        for index in range(begin, end):
            block = self._pool.find(digests[index])
            assert block is not None
            self._pool.acquire(block)
            self._builder.append_block(sequence, block)
            sequence.num_computed_tokens += self._block_size
            if self.tier:
                self.tier.keep(digests[index], index)
            if not sequence.timings.num_preemptions:
                sequence.num_cached_tokens += self._block_size
                self.num_cached_tokens += self._block_size
        return lacking

    def load(self, sequence: Sequence, budget: int, token_s: float, *, is_bounded: bool) -> int:
        """Have blocks loaded where those of the pool end; the tokens of the budget that this is worth.

        If all of it, there are more, and the sequence goes on with them in the next step. `token_s` is what
        computing a token takes.
        """
        if self.tier is None or not sequence.may_load:
            return 0
        self.adopt(sequence)
        first = sequence.num_computed_tokens // self._block_size
        most_s = budget * token_s if is_bounded else math.inf
        digests = sequence.digests[first : self.num_sharable(sequence)]
        seconds = self.tier.load(self._pool, digests, first, self._block_size * token_s, most_s)
        sequence.may_load = seconds == most_s
        return min(budget, round(seconds / token_s)) if is_bounded else 0

    def publish(self, sequence: Sequence, first: int, last: int) -> None:
        """Let the full blocks `first` … `last - 1` of a sequence be found, and those of its prompt kept."""
        self._extend(sequence, last)
        for index in range(first, last):
            self._pool.publish(sequence.block_ids[index], sequence.digests[index])
            if self.tier and (index + 1) * self._block_size <= sequence.num_prompt_tokens:
                self.tier.keep(sequence.digests[index], index)
