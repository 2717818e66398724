"""Who computes how many tokens in the next step. Owns the block pool; engine thread only.

    plan = scheduler.schedule()      blocks are reserved, buffers filled
    runner.run(plan.step)            then every sampled sequence takes its new tokens
    scheduler.commit(plan)           the tokens are computed, full blocks become findable

There are no prefill and decode modes: a sequence whose last token only is uncomputed gets one token first,
what is left of the budget goes to longer stretches of uncomputed tokens.
"""

from __future__ import annotations

import time
from collections import deque

from llm_serving.engine.batch import Plan, StepBuilder
from llm_serving.engine.blocks import BlockPool
from llm_serving.engine.budget import PrefillBudget
from llm_serving.engine.drafting import Drafting
from llm_serving.engine.policy import PrefillPolicy
from llm_serving.engine.prefixes import PrefixCache
from llm_serving.engine.prompt_logprobs import MOST_ROWS
from llm_serving.engine.protocol import RunnerLimits
from llm_serving.engine.sequence import Sequence, SequenceStatus
from llm_serving.engine.spans import whole_tokens
from llm_serving.engine.states import StateSlots


class Scheduler:
    """Continuous batching over a paged, prefix-cached block pool.

    Less urgent, then younger sequences give way: when the pool is empty the last of them loses its blocks and
    recomputes later, mostly from the prefix cache. The oldest of the most urgent therefore always gets on.
    """

    STEP_S = 0.06

    def __init__(
        self, limits: RunnerLimits, max_concurrency: int, budget: PrefillBudget | None = None
    ) -> None:
        self.block_size = limits.block_size
        self.pool = BlockPool(limits.num_blocks)
        self.max_context = min(limits.max_context, limits.num_blocks * limits.block_size)
        self.max_step_tokens = limits.max_step_tokens
        self.budget = budget or PrefillBudget(self.STEP_S)
        self._has_spans = limits.given_span > 0
        # One token each must fit into a step, or decoding would starve someone; so must a span beside them.
        beside = limits.max_step_tokens - max(0, limits.given_span - 1)
        self.max_running = max(1, min(max_concurrency, limits.max_sequences, beside))
        self.states: StateSlots | None = None
        if limits.num_states:  # as many snapshots as sequences
            self.max_running = min(self.max_running, max(1, limits.num_states // 2))
            self.states = StateSlots(limits.num_states, self.max_running, limits.block_size)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.speculates = limits.takes_drafts
        self.drafting = Drafting(self.budget)
        self.num_preemptions = 0
        self.num_prompt_tokens = 0
        self._num_arrived = 0
        self._policy = PrefillPolicy()
        self._builder = StepBuilder(limits, self.max_running, self.max_context, self.states)
        self.prefixes = PrefixCache(self.pool, self._builder, self.block_size, limits.adapters, self.states)

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that fits: `num_tokens < max_context`."""
        sequence.arrival = self._num_arrived
        self._num_arrived += 1
        if self._has_spans:
            sequence.spans = sequence.request.given
        self._policy.arrive(sequence)
        self.waiting.append(sequence)

    def schedule(self) -> Plan | None:
        """Choose the next step's tokens and reserve their blocks; None when there is nothing to do.

        The plan's arrays are reused by the next call.
        """
        planned = self._plan_tokens()
        while not planned and len(self.running) > 1:
            # Everyone waits for blocks that another one holds, or will compute: one has to give way.
            self.preempt(self._last())
            planned = self._plan_tokens(may_admit=False)
        if planned:
            self._plan_drafts(planned)
            return self._builder.build(planned)
        if self.has_work:
            raise RuntimeError("a sequence alone in the engine cannot get on: the block pool is inconsistent")
        return None

    def commit(self, plan: Plan) -> None:
        """The step ran: count its tokens as computed and let their full blocks be found.

        Drafts count if they have become tokens; the blocks of the others are given back. The last token of a
        sequence is never computed yet.
        """
        for sequence, count in zip(plan.sequences, plan.counts, strict=True):
            first, end = sequence.num_computed_tokens // self.block_size, sequence.num_computed_tokens + count
            sequence.num_computed_tokens = min(end, sequence.num_tokens - 1)
            self._policy.serve(sequence, count)
            last = sequence.num_computed_tokens // self.block_size
            if last > first:
                self.prefixes.publish(sequence, first, last)
            if self.states:
                self.states.commit(sequence, end)
            if sequence.draft_ids:
                sequence.draft_ids = []
                num_blocks = -(-sequence.num_computed_tokens // self.block_size)
                self.pool.release(self._builder.cut_blocks(sequence, num_blocks))
        if self.prefixes.tier:
            self.prefixes.tier.save_beside_steps(self.pool)

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
        self._policy.leave(sequence)
        self.drafting.leave(sequence)
        sequence.status = SequenceStatus.FINISHED

    def check_integrity(self) -> None:
        """Verify blocks, tables and slots against each other. Raises: AssertionError."""
        self.pool.check_integrity(sequence.block_ids for sequence in self.running)
        self._builder.check_integrity(self.running)
        if self.states:
            self.states.check_integrity(self.running)
        for sequence in self.running:
            if len(sequence.block_ids) != -(-sequence.num_computed_tokens // self.block_size):
                raise AssertionError("a sequence holds more or fewer blocks than it has computed")
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
        may_admit = may_admit and len(self.running) < self.max_running
        candidates = prefilling + list(self.waiting) if may_admit else prefilling
        if not candidates:
            return planned
        now_s = time.monotonic()
        room, price = MOST_ROWS, 1.0  # of tokens that are scored: a step's place for them, and their cost
        if planned:
            price = self.budget.costs.row_tokens
            num_late = self._policy.num_late(candidates, now_s)
            num_waiting = min(num_late, self.max_running - len(planned))
            budget = min(budget, self.budget.num_tokens(len(planned), num_waiting))
        for sequence in self._policy.order(candidates, list(planned), self.prefixes.num_remaining, now_s):
            if budget <= 0:
                break
            if sequence.is_scoring and not room:
                continue
            if sequence.status is SequenceStatus.WAITING:
                # Whoever has just given way must not take the blocks back at once, and nobody overtakes
                # the first who finds no place: it would wait for ever.
                may_admit = may_admit and self.num_preemptions == num_preempted and self._admit(sequence)
                if not may_admit:
                    continue
            token_s = self.budget.costs.prompt_token_s
            budget -= self.prefixes.load(sequence, budget, token_s, is_bounded=bool(planned))
            if sequence.is_scoring:
                count = self._prefill(sequence, min(room, max(1, int(budget / price))), planned)
                room -= count
                budget -= round(count * price)
            else:
                count = self._prefill(sequence, budget, planned)
                budget -= count
            if count:
                planned[sequence] = count
        return planned

    def _plan_drafts(self, planned: dict[Sequence, int]) -> None:
        """Let few sequences guess ahead, or where it is sure, into blocks that nobody else needs."""
        is_reading = any(sequence.num_uncomputed_tokens > 1 for sequence in self.running)
        if not self.speculates or self.waiting or is_reading:
            return
        room = self.max_step_tokens - len(planned)
        drafts = self.drafting.propose(list(planned), len(self.running), room)
        for sequence, draft in drafts.items():
            num_blocks = -(-(sequence.num_tokens + len(draft)) // self.block_size)
            if num_blocks - len(sequence.block_ids) <= self.pool.num_free:
                planned[sequence] = self._reserve(sequence, 1 + len(draft), planned)
                sequence.draft_ids = draft

    def _prefill(self, sequence: Sequence, budget: int, planned: dict[Sequence, int]) -> int:
        """How many tokens to compute now; 0 = wait for blocks, or for another that computes the same."""
        index = self.prefixes.adopt(sequence)
        if not sequence.num_computed_tokens % self.block_size and index < len(sequence.digests):
            owner = self.prefixes.owner(sequence, index)
            if owner is None:
                for digest in sequence.digests[index:]:
                    self.pool.claim(digest, sequence)
            elif owner is not sequence and index < self.prefixes.num_sharable(sequence):
                return 0
        count = min(budget, sequence.num_uncomputed_tokens)
        if not sequence.spans:
            return self._reserve(sequence, count, planned)
        return self._reserve_whole(sequence, count, planned)

    def _admit(self, sequence: Sequence) -> bool:
        """Give a place, if there are blocks for all its tokens beside those promised to the running ones."""
        if len(self.running) >= self.max_running:
            return False
        self.prefixes.name_blocks(sequence)
        needed = sequence.num_tokens // self.block_size + 1
        for digest in sequence.digests[: self.prefixes.num_coming(sequence)]:
            block = self.pool.find(digest)
            if block is None or self.pool.is_held(block):
                needed -= 1
        # Each running sequence may need one block more before it gives any back.
        if self.pool.num_free < needed + self.pool.num_claims + len(self.running):
            return False
        self.waiting.remove(sequence)
        self.running.append(sequence)
        self._builder.open(sequence)
        if self.states:
            self.states.open(sequence, self.prefixes.num_shared(sequence))
        sequence.status = SequenceStatus.RUNNING
        sequence.may_load = True
        if not sequence.timings.num_preemptions:
            self.num_prompt_tokens += sequence.num_prompt_tokens
        return True

    def _reserve(self, sequence: Sequence, count: int, planned: dict[Sequence, int]) -> int:
        """Get blocks for up to `count` more tokens, if need be from those who give way; how many fit."""
        end = sequence.num_computed_tokens + count
        while len(sequence.block_ids) * self.block_size < end:
            block = self.pool.allocate()
            if block is None:
                victim = self._last()
                if victim is sequence:
                    return len(sequence.block_ids) * self.block_size - sequence.num_computed_tokens
                self.preempt(victim)
                planned.pop(victim, None)
            else:
                self._builder.append_block(sequence, block)
        return count

    def _reserve_whole(self, sequence: Sequence, count: int, planned: dict[Sequence, int]) -> int:
        """The same without cutting a span: fewer tokens, or as many more as it has. Others may be over their
        budget by one span a step.
        """
        first, room = sequence.num_computed_tokens, self.max_step_tokens - sum(planned.values())
        count = whole_tokens(sequence.spans, first, count, room)
        reserved = self._reserve(sequence, count, planned)
        if reserved == count:
            return count
        count = whole_tokens(sequence.spans, first, reserved, 0)
        num_blocks = -(-(first + count) // self.block_size)
        self.pool.release(self._builder.cut_blocks(sequence, num_blocks))
        return count

    def _last(self) -> Sequence:
        """Who gives way first."""
        return max(self.running, key=lambda sequence: (sequence.request.priority, sequence.arrival))

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.withdraw(sequence.digests, sequence)
        if self.states:
            self.states.close(sequence)
        self.pool.release(self._builder.close(sequence))
        sequence.num_computed_tokens = 0
