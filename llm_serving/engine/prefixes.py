"""What a sequence need not compute: blocks of its prefix in the pool, and in the store behind it.

Bookkeeping on the scheduler's pool and block tables; engine thread only.
"""

from __future__ import annotations

import math

from llm_serving.engine.batch import StepBuilder
from llm_serving.engine.blocks import BlockPool, extend_chain
from llm_serving.engine.sequence import Sequence, SequenceStatus
from llm_serving.engine.spans import whole_blocks
from llm_serving.engine.tier import BlockTier


class PrefixCache:
    """Finds, takes over and publishes full blocks."""

    def __init__(
        self, pool: BlockPool, builder: StepBuilder, block_size: int, adapters: tuple[bytes, ...] = ()
    ) -> None:
        self.tier: BlockTier | None = None  # whoever has one sets it before the first step
        self.num_cached_tokens = 0
        self._pool = pool
        self._builder = builder
        self._block_size = block_size
        self._adapters = adapters

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
        # Blocks come to the cache first to last and leave it last to first: look on from where they ended.
        found, digests, pool = sequence.num_found_blocks, sequence.digests, self._pool
        while found and pool.find(digests[found - 1]) is None:
            found -= 1
        while found < self.num_sharable(sequence) and pool.find(digests[found]) is not None:
            found += 1
        sequence.num_found_blocks = found
        return sequence.num_tokens - whole_blocks(sequence.spans, found, self._block_size) * self._block_size

    def name_blocks(self, sequence: Sequence) -> None:
        """Digests of all its full blocks."""
        self._extend(sequence, sequence.num_tokens // self._block_size)

    def _extend(self, sequence: Sequence, num_blocks: int) -> None:
        request = sequence.request
        root = b"" if request.adapter is None else self._adapters[request.adapter]
        extend_chain(sequence.digests, sequence.token_ids, self._block_size, num_blocks, request.given, root)

    def adopt(self, sequence: Sequence) -> int:
        """Take over what the cache has of the uncomputed tokens, but nothing that ends in a span.

        Returns the first block that it lacks, or that may not come from it.
        """
        end, used = divmod(sequence.num_computed_tokens, self._block_size)
        if used:
            return end
        first, num_sharable, blocks = end, self.num_sharable(sequence), []
        while end < num_sharable and (block := self._pool.find(sequence.digests[end])) is not None:
            blocks.append(block)
            end += 1
        for index in range(first, whole_blocks(sequence.spans, end, self._block_size)):
            block = blocks[index - first]
            self._pool.acquire(block)
            self._builder.append_block(sequence, block)
            sequence.num_computed_tokens += self._block_size
            if self.tier:
                self.tier.keep(sequence.digests[index], index)
            if not sequence.timings.num_preemptions:
                sequence.num_cached_tokens += self._block_size
                self.num_cached_tokens += self._block_size
        return end

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
