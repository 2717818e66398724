"""One running request as the engine sees it. Engine thread only, except for its construction."""

from __future__ import annotations

import time
from dataclasses import replace
from enum import Enum

from llm_serving.engine.detokenizer import Detokenizer
from llm_serving.engine.protocol import SamplingRow
from llm_serving.engine.request import (
    FinishReason,
    GenerateRequest,
    GivenRows,
    SamplingParams,
    Timings,
    TokenEvent,
    TokenLogprobs,
)
from llm_serving.engine.speculation import PromptLookup

MOST_FORCED = 16  # tokens of a draft that a constraint forces
_UNLIKELY = -1e9  # what no logit makes up for; -inf would leave nothing where a constraint allows ends only


class SequenceStatus(Enum):
    WAITING = "waiting"  # holds no blocks
    RUNNING = "running"  # has a slot and blocks
    FINISHED = "finished"


class Sequence:
    """The tokens of one request and how far they are computed.

        token_ids   [ prompt ............................ | output ...... ]
                    [ computed ............... | uncomputed ............. ]
        block_ids   [ full, published | full | last, partly filled ]

    In a step `draft_ids` may follow. Between two steps there are none, and `len(block_ids)` is
    `num_computed_tokens` in blocks, rounded up.
    """

    __slots__ = (
        "request", "token_ids", "output_ids", "num_computed_tokens", "num_cached_tokens", "block_ids",
        "digests", "num_found_blocks", "may_load", "slot", "arrival", "status", "finish_reason",
        "timings", "detokenizer", "max_tokens", "lookup", "draft_ids", "prompt_logprobs", "given_end",
        "spans", "state", "stops", "snapshot", "leaving", "_early",
    )  # fmt: skip

    def __init__(self, request: GenerateRequest, detokenizer: Detokenizer, max_context: int) -> None:
        self.request = request
        self.token_ids = list(request.prompt_ids)
        self.output_ids: list[int] = []
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0  # of the prompt, taken from the prefix cache
        self.block_ids: list[int] = []
        self.digests: list[bytes] = []  # hash chain over the full blocks of token_ids, as far as known
        self.num_found_blocks = 0  # while waiting: leading blocks that the prefix cache has
        self.may_load = False  # admitted, and the block store may have more of it than was loaded
        self.slot = -1  # row in the step builder's block-table matrix
        self.arrival = -1  # order of submission; of one priority, older sequences are preempted last
        self.status = SequenceStatus.WAITING
        self.finish_reason: FinishReason | None = None
        self.timings = Timings(arrived_s=time.monotonic())
        self.given_end = request.given[-1].end if request.given else 0  # behind it, tokens have embeddings
        self.spans: tuple[GivenRows, ...] = ()  # of these rows, those that see each other all
        self.detokenizer = detokenizer
        self.lookup = PromptLookup()
        self.draft_ids: list[int] = []
        self.prompt_logprobs: list[
            TokenLogprobs
        ] = []  # of the second token and those behind it, if asked for
        # Of models with recurrent layers, see `StateSlots`:
        self.state = -1  # slot that holds the state after the computed tokens; -1 = there are none
        self.stops: tuple[int, ...] = ()  # snapshots stay behind so many blocks
        self.snapshot: bytes | None = None  # digest of the one that goes along
        self.leaving: list[tuple[int, int]] = []  # in this step: behind so many blocks, in which slot
        self.max_tokens = min(request.sampling.max_tokens, max_context - len(request.prompt_ids))
        self._early = _without_ends(request) if request.sampling.min_tokens else request.sampling

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_left(self) -> int:
        """Tokens that may still come."""
        return self.max_tokens - len(self.output_ids)

    @property
    def is_scoring(self) -> bool:
        """Whether log-probabilities of prompt tokens are still to be found."""
        is_asked = self.request.sampling.prompt_logprobs is not None
        return is_asked and len(self.prompt_logprobs) < self.num_prompt_tokens - 1

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    def propose_draft(self, most: int) -> list[int]:
        """Up to `most` tokens that may follow: what a constraint forces, or what followed the same before."""
        most = min(most, self.num_left - 1)
        if self.request.constraint is not None:
            return self.request.constraint.forced()[: min(most, MOST_FORCED)] if most > 0 else []
        return self.lookup.propose(self.token_ids, most)

    def record_draft(self, num_accepted: int) -> None:
        """What became of a draft of this kind."""
        if self.request.constraint is None:
            self.lookup.record(len(self.draft_ids), num_accepted)

    def sampling_rows(self) -> list[SamplingRow]:
        """A row for the next token, and one for each after a draft: it only counts if all before it hold."""
        position = len(self.token_ids)
        rows = [self._row(position, self.output_ids)]
        for end in range(1, len(self.draft_ids) + 1):
            rows.append(self._row(position + end, self.output_ids + self.draft_ids[:end]))
        return rows

    def _row(self, position: int, output_ids: list[int]) -> SamplingRow:
        sampling = self.request.sampling
        is_early = len(output_ids) < sampling.min_tokens
        return SamplingRow(
            self._early if is_early else sampling, position, self.request.prompt_ids, output_ids
        )

    def unscored(self, count: int) -> range:
        """Of the next `count` tokens, the positions whose logits tell what is not known of the prompt yet."""
        if not self.is_scoring:
            return range(0)
        end = min(self.num_computed_tokens + count, self.num_prompt_tokens - 1)
        return range(max(self.num_computed_tokens, len(self.prompt_logprobs)), end)

    def advance(self, token_id: int, logprobs: TokenLogprobs | None = None) -> TokenEvent:
        """Take the sampled token, decide whether the sequence ends, and tell what became of it."""
        now = time.monotonic()
        of_prompt = None
        if not self.output_ids:
            self.timings.first_token_s = now
            if self.request.sampling.prompt_logprobs is not None:
                of_prompt = tuple(self.prompt_logprobs)
        if not self.max_tokens:
            return self._event((), "", FinishReason.LENGTH, now, prompt_logprobs=of_prompt)
        self.token_ids.append(token_id)
        self.output_ids.append(token_id)
        detokenizer = self.detokenizer
        reason: FinishReason | None
        if token_id in self.request.eos_ids:
            text = detokenizer.flush()
            reason = self._reason_of_constraint() or FinishReason.STOP
            if self.request.sampling.prompt_logprobs is None:
                logprobs = None
        else:
            text = detokenizer.push(token_id)
            reason = None if detokenizer.stopped else self._reason_to_end(token_id)
            if reason is not None:
                text += detokenizer.flush()
            if detokenizer.stopped:
                reason = FinishReason.STOP
        return self._event((token_id,), text, reason, now, logprobs, of_prompt)

    def _reason_to_end(self, token_id: int) -> FinishReason | None:
        constraint = self.request.constraint
        if constraint is not None:
            constraint.accept(token_id)
            if constraint.is_over:
                return self._reason_of_constraint()
        return FinishReason.LENGTH if len(self.output_ids) >= self.max_tokens else None

    def _reason_of_constraint(self) -> FinishReason | None:
        """At the end: LENGTH where it could not be satisfied. None without one."""
        constraint = self.request.constraint
        if constraint is None:
            return None
        return FinishReason.STOP if constraint.is_satisfied else FinishReason.LENGTH

    def abort(self) -> TokenEvent:
        """End without another token; text that was held back is dropped."""
        return self._event((), "", FinishReason.ABORT, time.monotonic())

    def _event(
        self,
        token_ids: tuple[int, ...],
        text: str,
        reason: FinishReason | None,
        now: float,
        logprobs: TokenLogprobs | None = None,
        prompt_logprobs: tuple[TokenLogprobs, ...] | None = None,
    ) -> TokenEvent:
        if reason is not None:
            self.finish_reason = reason
            self.timings.finished_s = now
        return TokenEvent(
            self.request.request_id,
            token_ids,
            text,
            reason,
            len(self.request.prompt_ids),
            self.num_cached_tokens,
            len(self.output_ids),
            self.timings,
            self.detokenizer.stop_string,
            logprobs,
            prompt_logprobs,
        )


def _without_ends(request: GenerateRequest) -> SamplingParams:
    biases = dict(request.sampling.logit_bias) | dict.fromkeys(sorted(request.eos_ids), _UNLIKELY)
    return replace(request.sampling, logit_bias=tuple(biases.items()))
