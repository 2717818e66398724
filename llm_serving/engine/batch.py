"""From chosen sequences to the arrays of a step. Owns the block tables; engine thread only."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llm_serving.engine.protocol import RunnerLimits, Step
from llm_serving.engine.rotary import rotary_positions
from llm_serving.engine.sequence import Sequence
from llm_serving.engine.states import StateSlots


@dataclass(slots=True)
class Plan:
    """One step: who takes part, with how many tokens, and who gets a new token from it."""

    sequences: list[Sequence]
    counts: list[int]
    sampled: list[Sequence]  # in the order of step.logit_rows; each has a row, and one more for each draft
    scored: list[tuple[Sequence, int]]  # whose prompts are scored, by so many rows behind those
    num_rows: int  # of the step's tokens, how many are decoded or scored; the others are prompts'
    step: Step


class StepBuilder:
    """Keeps a row of a matrix for each running sequence's block table, and buffers that every step reuses."""

    def __init__(
        self, limits: RunnerLimits, max_running: int, max_context: int, states: StateSlots | None = None
    ) -> None:
        self._states = states
        self._free_slots = list(range(max_running - 1, -1, -1))
        width = -(-max_context // limits.block_size)
        self._tables = np.full((max_running, width), -1, np.int32)
        self._token_ids = np.empty(limits.max_step_tokens, np.int32)
        self._positions = np.empty(limits.max_step_tokens, np.int32)
        self._query_starts = np.zeros(max_running + 1, np.int32)
        self._logit_rows = np.empty(limits.max_step_tokens, np.int32)
        self._has_adapters = bool(limits.adapters)
        self._has_axes = limits.given_axes
        self._counting = np.arange(max(max_context, limits.max_step_tokens), dtype=np.int32)

    def open(self, sequence: Sequence) -> None:
        """Give a sequence its row."""
        sequence.slot = self._free_slots.pop()

    def append_block(self, sequence: Sequence, block: int) -> None:
        self._tables[sequence.slot, len(sequence.block_ids)] = block
        sequence.block_ids.append(block)

    def cut_blocks(self, sequence: Sequence, count: int) -> list[int]:
        """Keep the first `count` blocks; returns the others."""
        blocks = sequence.block_ids[count:]
        del sequence.block_ids[count:]
        self._tables[sequence.slot, count : count + len(blocks)] = -1
        return blocks

    def close(self, sequence: Sequence) -> list[int]:
        """Take the row back, and return the blocks that were in it."""
        blocks = self.cut_blocks(sequence, 0)
        self._free_slots.append(sequence.slot)
        sequence.slot = -1
        return blocks

    def build(self, planned: dict[Sequence, int]) -> Plan:
        """The step that computes the next `planned[sequence]` tokens of each, drafts included.

        Valid until the next call.
        """
        token_ids, positions, starts = self._token_ids, self._positions, self._query_starts
        sampled: list[Sequence] = []
        scored: list[tuple[Sequence, int]] = []
        scored_rows: list[np.ndarray] = []
        given: list[tuple[Sequence, int, int]] = []
        segments: list[tuple[int, int, int]] = []
        end = width = num_rows = num_logits = 0
        for row, (sequence, count) in enumerate(planned.items()):
            first = sequence.num_computed_tokens
            begin, end = end, end + count
            if count == 1:
                token_ids[begin] = sequence.token_ids[first]
                positions[begin] = first
            else:
                token_ids[begin:end] = sequence.token_ids[first : first + count] + sequence.draft_ids
                positions[begin:end] = self._counting[first : first + count]
            if self._states:
                segments += self._states.segments(sequence, count, begin)
            if first < sequence.given_end:
                given.append((sequence, count, begin))
            starts[row + 1] = end
            width = max(width, len(sequence.block_ids))
            if not sequence.timings.scheduled_s:
                sequence.timings.scheduled_s = time.monotonic()
            if sequence.num_uncomputed_tokens == 1:
                num_rows += count
            if unscored := sequence.unscored(count):
                scored.append((sequence, len(unscored)))
                scored_rows.append(self._counting[unscored.start : unscored.stop] + (begin - first))
                num_rows += len(unscored)
            if count >= sequence.num_uncomputed_tokens:
                begin = end - 1 - len(sequence.draft_ids)
                self._logit_rows[num_logits : num_logits + end - begin] = self._counting[begin:end]
                num_logits += end - begin
                sampled.append(sequence)
        for rows in scored_rows:
            self._logit_rows[num_logits : num_logits + len(rows)] = rows
            num_logits += len(rows)
        slots = [sequence.slot for sequence in planned]
        step = Step(
            token_ids=token_ids[:end],
            positions=positions[:end],
            query_starts=starts[: len(planned) + 1],
            block_tables=self._tables[:, :width].take(slots, axis=0),
            logit_rows=self._logit_rows[:num_logits],
        )
        if self._has_adapters:
            step.adapters = _adapters_of(planned)
        if segments:
            step.state_segments = np.array(segments, np.int32)
        if given:
            step.given, step.given_rows = _rows_of(given)
            step.seen = _seen_in(given, step.positions)
        step.rotary = _rotary_of(planned, step.positions) if self._has_axes else None
        return Plan(list(planned), list(planned.values()), sampled, scored, num_rows, step)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Verify rows and slots against the sequences. Raises: AssertionError."""
        slots = []
        for sequence in running:
            slots.append(sequence.slot)
            row = self._tables[sequence.slot].tolist()
            padding = [-1] * (len(row) - len(sequence.block_ids))
            if row != sequence.block_ids + padding:
                raise AssertionError("a block table differs from its sequence")
        if sorted(slots + self._free_slots) != list(range(len(self._tables))):
            raise AssertionError("a slot is lost or used twice")
        if (self._tables[self._free_slots] != -1).any():
            raise AssertionError("an unused block table is not empty")


def _adapters_of(sequences: Iterable[Sequence]) -> np.ndarray | None:
    """int32: of each sequence its adapter, or -1. None if no sequence has one."""
    adapters = [-1 if (own := sequence.request.adapter) is None else own for sequence in sequences]
    return np.array(adapters, np.int32) if max(adapters) >= 0 else None


def _rows_of(given: list[tuple[Sequence, int, int]]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What sequences bring along for their next tokens, so many from a place on; which tokens of the step."""
    rows: list[np.ndarray] = []
    places: list[np.ndarray] = []
    for sequence, count, begin in given:
        first = sequence.num_computed_tokens
        for each in sequence.request.given:
            start, end = max(each.start, first), min(each.end, first + count)
            if start < end:
                rows.append(each.rows[start - each.start : end - each.start])
                places.append(np.arange(start, end, dtype=np.int32) + np.int32(begin - first))
    if not rows:
        return None, None
    return np.concatenate(rows), np.concatenate(places)


def _rotary_of(planned: dict[Sequence, int], positions: np.ndarray) -> np.ndarray | None:
    """Rotary positions of the step's tokens, if any sequence has a picture: all behind it are turned less."""
    if not any(sequence.given_end for sequence in planned):
        return None
    rotary = np.repeat(positions[:, None], 3, axis=1)
    end = 0
    for sequence, count in planned.items():
        begin, end = end, end + count
        if sequence.given_end:
            first = sequence.num_computed_tokens
            rotary[begin:end] = rotary_positions(sequence.request.given, first, count)
    return rotary


def _seen_in(given: list[tuple[Sequence, int, int]], positions: np.ndarray) -> np.ndarray | None:
    """How many positions each token of the step sees, if some belong to a span: all of it."""
    seen: np.ndarray | None = None
    for sequence, count, begin in given:
        first = sequence.num_computed_tokens
        for span in sequence.spans:
            if first <= span.start < first + count:
                seen = positions + np.int32(1) if seen is None else seen
                at = begin + span.start - first
                seen[at : at + len(span.rows)] = span.end
    return seen
