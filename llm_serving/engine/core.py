"""The engine thread: drain the inbox, schedule, run, sample, commit, emit; one list of events a step.

`submit`, `abort`, `drain`, `stop`, `wait_idle` and `stats` may be called from any thread; the rest belongs to
the engine thread. While nothing is to be done the thread sleeps on a condition.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Items

import numpy as np

from llm_serving.engine.admission import check_adapter, check_given, check_prompt, check_room, check_scores
from llm_serving.engine.budget import PrefillBudget
from llm_serving.engine.constraint import forbid_others
from llm_serving.engine.detokenizer import Detokenizer
from llm_serving.engine.draft_model import DraftModel
from llm_serving.engine.prompt_logprobs import score_prompts
from llm_serving.engine.protocol import EngineOptions, EngineStats, ModelRunner, Sampler
from llm_serving.engine.request import GenerateRequest, TokenEvent, TokenLogprobs
from llm_serving.engine.scheduler import Scheduler
from llm_serving.engine.sequence import Sequence
from llm_serving.engine.speculation import num_accepted
from llm_serving.engine.tier import BlockTier

IDLE_SAVES = 8  # blocks between two looks at the inbox


class EngineCore:
    """Runs requests on one runner.

    Every accepted request ends exactly once: by an event with a finish reason, by `on_death`, or by `stop`.

    An aborted request gets one last event with ABORT and no text. The engine thread waits for `emit` and
    `on_death`. While nothing is to be done it calls `prepare`, which does a few ms of what would have to be
    done in later steps, and returns whether there is more.
    """

    def __init__(
        self,
        runner: ModelRunner,
        sampler: Sampler,
        token_bytes: Items[bytes],
        options: EngineOptions,
        emit: Callable[[list[TokenEvent]], None],
        on_death: Callable[[BaseException], None],
        tier: BlockTier | None = None,
        prepare: Callable[[], bool] = lambda: False,
        draft_model: DraftModel | None = None,
    ) -> None:
        self.limits = runner.limits
        budget = PrefillBudget(options.step_ms / 1000)
        self.scheduler = Scheduler(runner.limits, options.max_concurrency, budget)
        self.scheduler.prefixes.tier = tier
        self.scheduler.speculates &= options.speculation != "off"
        self.scheduler.drafting.model = draft_model
        if options.context_length:
            self.scheduler.max_context = min(self.scheduler.max_context, options.context_length)
        self.max_context = self.scheduler.max_context
        self._max_requests = self.scheduler.max_running + options.max_queue
        self._runner = runner
        self._sampler = sampler
        self._tier = tier
        self._prepare = prepare
        # A model's vocabulary may be padded beyond its tokenizer's: such ids have no text.
        self._token_bytes = list(token_bytes) + [b""] * (runner.limits.vocab_size - len(token_bytes))
        self._emit = emit
        self._on_death = on_death
        self._wake = threading.Condition()
        self._inbox: list[Sequence] = []
        self._aborts: list[str] = []
        self._requests: dict[str, Sequence] = {}  # accepted and not ended
        self._draining = False
        self._stopped = False
        self._death: BaseException | None = None
        self._num_steps = 0
        self._step_seconds = 0.0
        self._num_generated_tokens = 0
        self._num_drafted_tokens = 0
        self._num_accepted_tokens = 0

    def submit(self, request: GenerateRequest) -> None:
        """Accept a request. As many may wait as the options say, beside those that can run at once.

        Raises: EngineDead, Overloaded, ContextLengthExceeded, InvalidRequest (empty prompt, unknown token id,
        request id in use).
        """
        check_prompt(request.prompt_ids, self.limits.vocab_size, self.max_context)
        check_given(request.given, len(request.prompt_ids), self.limits)
        check_adapter(request.adapter, len(self.limits.adapters))
        # A span is computed at once, and has more rows than a step may score.
        has_spans = bool(self.limits.given_span and request.given)
        check_scores(request.sampling, can_score=self.limits.has_all_logits and not has_spans)
        detokenizer = Detokenizer(self._token_bytes, request.sampling.stop, request.sampling.thoughts)
        sequence = Sequence(request, detokenizer, self.max_context)
        with self._wake:
            check_room(
                request.request_id,
                self._requests,
                self._max_requests,
                draining=self._draining,
                death=self._death,
            )
            self._requests[request.request_id] = sequence
            self._inbox.append(sequence)
            self._wake.notify_all()

    def abort(self, request_id: str) -> None:
        """End a request before the next step; nothing happens if it has ended."""
        with self._wake:
            if request_id in self._requests:
                self._aborts.append(request_id)
                self._wake.notify_all()

    def drain(self) -> None:
        """Accept nothing more."""
        with self._wake:
            self._draining = True

    def wait_idle(self, timeout_s: float) -> bool:
        """Block until no request is left, or the time is over; whether none is left."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._requests or self._stopped, timeout_s)

    def stop(self) -> None:
        """Let the engine thread end after the current step; accepted requests get no more events."""
        with self._wake:
            self._draining = self._stopped = True
            self._wake.notify_all()

    def close(self) -> None:
        """After the engine thread has ended: keep what is still to be saved, within seconds."""
        if self._tier:
            self._tier.close(self.scheduler.pool)
        # Or it and its owner would hold each other, and the garbage collector may be told to look away.
        self._emit = self._on_death = _tell_nobody

    def stats(self, device: str) -> EngineStats:
        scheduler, tier = self.scheduler, self._tier
        return EngineStats(
            device=device,
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting) + len(self._inbox),
            num_blocks=scheduler.pool.num_blocks,
            num_free_blocks=scheduler.pool.num_free,
            num_prompt_tokens=scheduler.num_prompt_tokens,
            num_cached_tokens=scheduler.prefixes.num_cached_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_preemptions=scheduler.num_preemptions,
            num_drafted_tokens=self._num_drafted_tokens,
            num_accepted_tokens=self._num_accepted_tokens,
            num_steps=self._num_steps,
            step_seconds=self._step_seconds,
            num_read_blocks=tier.store.num_read if tier else 0,
            num_written_blocks=tier.store.num_written if tier else 0,
            num_dropped_blocks=tier.num_dropped if tier else 0,
            disk_bytes=tier.store.num_bytes if tier else 0,
        )

    def run(self) -> None:
        """The engine thread's life: until `stop`, or until something raises."""
        try:
            while self._wait_for_work():
                events = self.step()
                if events:
                    self._emit(events)
        except BaseException as error:
            with self._wake:
                self._death = error
                self._requests.clear()
                self._wake.notify_all()
            self._on_death(error)

    def step(self) -> list[TokenEvent]:
        """Take in what arrived, run at most one forward pass, return what came of it."""
        events = self._drain_inbox()
        started_s = time.monotonic()
        plan = self.scheduler.schedule()
        if plan is not None:
            logits = self._runner.run(plan.step)
            if plan.scored:
                logits = score_prompts(self._sampler, plan.scored, logits)
            if plan.sampled:
                events += self._advance(plan.sampled, *self._choose(plan.sampled, logits))
            self.scheduler.commit(plan)
            for sequence in plan.sampled:
                if sequence.is_finished:
                    self._forget(sequence)
            self._num_steps += 1
            seconds = time.monotonic() - started_s
            self._step_seconds += seconds
            if self._tier:
                seconds -= self._tier.take_loading_s()
            seconds -= self.scheduler.drafting.take_seconds()
            self.scheduler.budget.costs.observe(
                plan.num_rows, len(plan.step.token_ids) - plan.num_rows, seconds
            )
        return events

    def _choose(
        self, sequences: list[Sequence], logits: np.ndarray
    ) -> tuple[list[int], list[TokenLogprobs | None]]:
        """A token for every row, and its log-probabilities where they were asked for."""
        rows = [row for sequence in sequences for row in sequence.sampling_rows()]
        counts = {i: n for i, item in enumerate(rows) if (n := item.params.top_logprobs) is not None}
        before = logits[list(counts)] if counts else None  # a copy: what follows overwrites its own
        row = 0
        for sequence in sequences:
            if (constraint := sequence.request.constraint) is not None:
                for offset, allowed in enumerate(constraint.allowed(sequence.draft_ids)):
                    forbid_others(logits[row + offset], allowed)
            row += 1 + len(sequence.draft_ids)
        chosen_ids = self._sampler.sample(logits, rows)
        logprobs: list[TokenLogprobs | None] = [None] * len(rows)
        if before is not None:
            chosen = [chosen_ids[i] for i in counts]
            for i, found in zip(
                counts, self._sampler.logprobs(before, chosen, list(counts.values())), strict=True
            ):
                logprobs[i] = found
        return chosen_ids, logprobs

    def _advance(
        self, sequences: list[Sequence], chosen_ids: list[int], logprobs: list[TokenLogprobs | None]
    ) -> list[TokenEvent]:
        """Give each the drafts that were chosen as well, and the token after them; an event a token."""
        events = []
        begin = 0
        for sequence in sequences:
            draft_ids = sequence.draft_ids
            end = begin + len(draft_ids) + 1
            count = num_accepted(draft_ids, chosen_ids[begin:end])
            if draft_ids:
                self.scheduler.drafting.record(sequence, count)
                self._num_drafted_tokens += len(draft_ids)
                self._num_accepted_tokens += count
            for row in range(begin, begin + count + 1):
                events.append(sequence.advance(chosen_ids[row], logprobs[row]))
                if sequence.is_finished:
                    break
            begin = end
        self._num_generated_tokens += sum(len(event.token_ids) for event in events)
        return events

    def _has_work(self) -> bool:
        return bool(self._stopped or self._inbox or self._aborts or self.scheduler.has_work)

    def _wait_for_work(self) -> bool:
        tier, pool = self._tier, self.scheduler.pool
        while not self._has_work() and ((tier and tier.save(pool, IDLE_SAVES)) or self._prepare()):
            pass
        with self._wake:
            self._wake.wait_for(self._has_work)
            return not self._stopped

    def _drain_inbox(self) -> list[TokenEvent]:
        with self._wake:
            for sequence in self._inbox:
                self.scheduler.add(sequence)
            self._inbox.clear()
            aborts, self._aborts = self._aborts, []
        events = []
        for request_id in aborts:
            sequence_or_none = self._requests.get(request_id)
            if sequence_or_none is not None:
                events.append(sequence_or_none.abort())
                self._forget(sequence_or_none)
        return events

    def _forget(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        with self._wake:
            del self._requests[sequence.request.request_id]
            if not self._requests:
                self._wake.notify_all()


def _tell_nobody(what: object) -> None:
    """Who is told when the engine is closed."""
