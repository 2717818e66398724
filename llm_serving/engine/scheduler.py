"""Who computes how many tokens in the next step. Owns the block pool; engine thread only.

    plan = scheduler.schedule()      blocks are reserved, buffers filled
    runner.run(plan.step)
    scheduler.commit(plan)           the tokens are computed, full blocks become findable

There are no prefill and decode modes: a sequence whose last token only is uncomputed gets one token first,
what is left of the budget goes to longer stretches of uncomputed tokens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from llm_serving.engine.blocks import BlockPool, extend_chain
from llm_serving.engine.protocol import RunnerLimits, Step
from llm_serving.engine.sequence import Sequence, SequenceStatus


@dataclass(slots=True)
class Plan:
    """One step: who takes part, with how many tokens, and who gets a new token from it."""

    sequences: list[Sequence]
    counts: list[int]
    sampled: list[Sequence]  # in the order of step.logit_rows
    step: Step


def prefill_order(running: Iterable[Sequence], waiting: Iterable[Sequence]) -> Iterator[Sequence]:
    """The policy: who gets the prefill budget first. Now: first come, first served."""
    return chain(running, waiting)


class Scheduler:
    """Continuous batching over a paged, prefix-cached block pool.

    Younger sequences give way: when the pool is empty the last to arrive loses its blocks and recomputes
    later, mostly from the prefix cache. The oldest therefore always gets on.
    """

    PREFILL_BUDGET = 128  # prompt tokens a step may carry while anyone decodes

    def __init__(
        self, limits: RunnerLimits, max_concurrency: int, prefill_budget: int = PREFILL_BUDGET
    ) -> None:
        self.block_size = limits.block_size
        self.pool = BlockPool(limits.num_blocks)
        self.max_context = min(limits.max_context, limits.num_blocks * limits.block_size)
        self.max_step_tokens = limits.max_step_tokens
        self.prefill_budget = prefill_budget
        # One token each must fit into a step, or decoding would starve someone.
        self.max_running = max(1, min(max_concurrency, limits.max_sequences, limits.max_step_tokens))
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self._num_arrived = 0
        self._free_slots = list(range(self.max_running - 1, -1, -1))
        width = -(-self.max_context // self.block_size)
        self._tables = np.full((self.max_running, width), -1, np.int32)
        self._token_ids = np.empty(limits.max_step_tokens, np.int32)
        self._positions = np.empty(limits.max_step_tokens, np.int32)
        self._query_starts = np.zeros(self.max_running + 1, np.int32)
        self._logit_rows = np.empty(self.max_running, np.int32)
        self._counting = np.arange(self.max_context, dtype=np.int32)

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that fits: `num_tokens < max_context`."""
        sequence.arrival = self._num_arrived
        self._num_arrived += 1
        self.waiting.append(sequence)

    def schedule(self) -> Plan | None:
        """Choose the next step's tokens and reserve their blocks; None when there is nothing to do.

        The plan's arrays are reused by the next call.
        """
        planned = self._plan_tokens()
        while not planned and len(self.running) > 1:
            # Everyone waits for blocks that another one holds, or will compute: one has to give way.
            self.preempt(self._youngest())
            planned = self._plan_tokens(may_admit=False)
        if planned:
            return self._build(planned)
        if self.has_work:
            raise RuntimeError("a sequence alone in the engine cannot get on: the block pool is inconsistent")
        return None

    def commit(self, plan: Plan) -> None:
        """The step ran: count its tokens as computed and let their full blocks be found."""
        for sequence, count in zip(plan.sequences, plan.counts, strict=True):
            first = sequence.num_computed_tokens // self.block_size
            sequence.num_computed_tokens += count
            last = sequence.num_computed_tokens // self.block_size
            if last > first:
                extend_chain(sequence.digests, sequence.token_ids, self.block_size, last)
                for index in range(first, last):
                    self.pool.publish(sequence.block_ids[index], sequence.digests[index])

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks and put it back at the head of the queue."""
        self._release(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.timings.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence in whatever state it is; its full blocks stay findable."""
        if sequence.status is SequenceStatus.RUNNING:
            self._release(sequence)
        elif sequence.status is SequenceStatus.WAITING:
            self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED

    def check_integrity(self) -> None:
        """Verify blocks, tables and slots against each other. Raises: AssertionError."""
        self.pool.check_integrity(sequence.block_ids for sequence in self.running)
        slots = [sequence.slot for sequence in self.running]
        if sorted(slots + self._free_slots) != list(range(self.max_running)):
            raise AssertionError("a slot is lost or used twice")
        for sequence in self.running:
            row = self._tables[sequence.slot].tolist()
            padding = [-1] * (len(row) - len(sequence.block_ids))
            if row != sequence.block_ids + padding:
                raise AssertionError("a block table differs from its sequence")
            if len(sequence.block_ids) != -(-sequence.num_computed_tokens // self.block_size):
                raise AssertionError("a sequence holds more or fewer blocks than it has computed")
        if (self._tables[self._free_slots] != -1).any():
            raise AssertionError("an unused block table is not empty")
        if any(sequence.block_ids or sequence.num_computed_tokens for sequence in self.waiting):
            raise AssertionError("a waiting sequence holds blocks")

    def _plan_tokens(self, may_admit: bool = True) -> dict[Sequence, int]:
        planned: dict[Sequence, int] = {}
        prefilling = []
        num_preempted = self.num_preemptions
        for sequence in self.running.copy():
            if sequence.num_uncomputed_tokens > 1:
                prefilling.append(sequence)
            elif sequence.status is SequenceStatus.RUNNING and self._reserve(sequence, 1, planned):
                planned[sequence] = 1
        budget = self.max_step_tokens - len(planned)
        if planned:
            budget = min(budget, self.prefill_budget)
        elif not prefilling and not self.waiting:
            return planned
        for sequence in prefill_order(prefilling, tuple(self.waiting)):
            if budget <= 0:
                break
            if sequence.status is SequenceStatus.WAITING:
                # Whoever has just given way must not take the blocks back at once.
                if not may_admit or self.num_preemptions > num_preempted:
                    continue
                if not self._admit(sequence):
                    break
            count = self._prefill(sequence, budget, planned)
            if count:
                planned[sequence] = count
                budget -= count
        return planned

    def _prefill(self, sequence: Sequence, budget: int, planned: dict[Sequence, int]) -> int:
        """How many tokens to compute now; 0 = wait for blocks, or for another that computes the same."""
        self._adopt(sequence)
        index, used = divmod(sequence.num_computed_tokens, self.block_size)
        if not used and index < len(sequence.digests):
            owner = self.pool.claimant(sequence.digests[index])
            if owner is None:
                for digest in sequence.digests[index:]:
                    self.pool.claim(digest, sequence)
            elif owner is not sequence and index < self._num_sharable(sequence):
                return 0
        return self._reserve(sequence, min(budget, sequence.num_uncomputed_tokens), planned)

    def _adopt(self, sequence: Sequence) -> None:
        """Take over what the cache has of the uncomputed tokens, block by block."""
        while not sequence.num_computed_tokens % self.block_size:
            index = sequence.num_computed_tokens // self.block_size
            block = self.pool.find(sequence.digests[index]) if index < self._num_sharable(sequence) else None
            if block is None:
                break
            self.pool.acquire(block)
            self._append_block(sequence, block)
            sequence.num_computed_tokens += self.block_size
            if not sequence.timings.num_preemptions:
                sequence.num_cached_tokens += self.block_size
                self.num_cached_tokens += self.block_size

    def _num_sharable(self, sequence: Sequence) -> int:
        """Blocks that may come from the cache: the last token is always computed, its logits are wanted."""
        return (sequence.num_tokens - 1) // self.block_size

    def _admit(self, sequence: Sequence) -> bool:
        """Give a place, if there are blocks for all its tokens beside those promised to the running ones."""
        if len(self.running) >= self.max_running:
            return False
        extend_chain(
            sequence.digests, sequence.token_ids, self.block_size, sequence.num_tokens // self.block_size
        )
        needed = sequence.num_tokens // self.block_size + 1
        for digest in sequence.digests[: self._num_sharable(sequence)]:
            block = self.pool.find(digest)
            if block is None and self.pool.claimant(digest) is None:
                break
            if block is None or self.pool.is_held(block):
                needed -= 1
        # Each running sequence may need one block more before it gives any back.
        if self.pool.num_free < needed + self.pool.num_claims + len(self.running):
            return False
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.slot = self._free_slots.pop()
        sequence.status = SequenceStatus.RUNNING
        if not sequence.timings.num_preemptions:
            self.num_prompt_tokens += sequence.num_prompt_tokens
        return True

    def _reserve(self, sequence: Sequence, count: int, planned: dict[Sequence, int]) -> int:
        """Get blocks for up to `count` more tokens, if need be from younger sequences; how many fit."""
        end = sequence.num_computed_tokens + count
        while len(sequence.block_ids) * self.block_size < end:
            block = self.pool.allocate()
            if block is None:
                victim = self._youngest()
                if victim is sequence:
                    return len(sequence.block_ids) * self.block_size - sequence.num_computed_tokens
                self.preempt(victim)
                planned.pop(victim, None)
            else:
                self._append_block(sequence, block)
        return count

    def _youngest(self) -> Sequence:
        return max(self.running, key=lambda sequence: sequence.arrival)

    def _append_block(self, sequence: Sequence, block: int) -> None:
        self._tables[sequence.slot, len(sequence.block_ids)] = block
        sequence.block_ids.append(block)

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.withdraw(sequence.digests, sequence)
        self.pool.release(sequence.block_ids)
        self._tables[sequence.slot, : len(sequence.block_ids)] = -1
        self._free_slots.append(sequence.slot)
        sequence.slot = -1
        sequence.block_ids = []
        sequence.num_computed_tokens = 0

    def _build(self, planned: dict[Sequence, int]) -> Plan:
        token_ids, positions, starts = self._token_ids, self._positions, self._query_starts
        sampled: list[Sequence] = []
        end = width = 0
        for row, (sequence, count) in enumerate(planned.items()):
            first = sequence.num_computed_tokens
            begin, end = end, end + count
            if count == 1:
                token_ids[begin] = sequence.token_ids[first]
                positions[begin] = first
            else:
                token_ids[begin:end] = sequence.token_ids[first : first + count]
                positions[begin:end] = self._counting[first : first + count]
            starts[row + 1] = end
            width = max(width, len(sequence.block_ids))
            if not sequence.timings.scheduled_s:
                sequence.timings.scheduled_s = time.monotonic()
            if count == sequence.num_uncomputed_tokens:
                self._logit_rows[len(sampled)] = end - 1
                sampled.append(sequence)
        slots = [sequence.slot for sequence in planned]
        step = Step(
            token_ids=token_ids[:end],
            positions=positions[:end],
            query_starts=starts[: len(planned) + 1],
            block_tables=self._tables[:, :width].take(slots, axis=0),
            logit_rows=self._logit_rows[: len(sampled)],
        )
        return Plan(list(planned), list(planned.values()), sampled, step)
