"""Drives a ModelRunner through its seam alone, as a scheduler would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llm_serving.engine.protocol import ModelRunner, Step


@dataclass
class DrivenSequence:
    """The tokens fed so far and the blocks that hold them."""

    num_tokens: int = 0
    blocks: list[int] = field(default_factory=list)
    adapter: int = -1
    slot: int = -1  # of its state, if the runner has states


class RunnerDriver:
    """Hands out blocks in a scattered order, so that nothing may rely on neighbours; feeds any chunks."""

    def __init__(self, runner: ModelRunner, seed: int = 0) -> None:
        self.runner = runner
        order = np.random.default_rng(seed).permutation(runner.limits.num_blocks)
        self._free_blocks: list[int] = order.tolist()
        self._free_slots = list(range(runner.limits.num_states))

    def finish(self, sequence: DrivenSequence) -> None:
        """Give the blocks back; the next sequence writes over them, last used first."""
        self._free_blocks.extend(sequence.blocks)
        sequence.blocks = []
        if sequence.slot >= 0:
            self._free_slots.append(sequence.slot)

    def step(
        self,
        work: Sequence[tuple[DrivenSequence, Sequence[int]]],
        rows: Sequence[int] | None = None,
        given: tuple[np.ndarray, np.ndarray] | None = None,
        seen: np.ndarray | None = None,
        rotary: np.ndarray | None = None,
    ) -> np.ndarray:
        """Feed each sequence its next tokens in one step; `given` are rows for some of all tokens, by index,
        `seen` how many positions each of them sees, `rotary` what turns them.

        Returns float32 [num_rows, vocab], a copy: of all tokens in order, or of the flat indices `rows`.
        """
        for sequence, tokens in work:
            self._reserve(sequence, sequence.num_tokens + len(tokens))
        tables = np.full((len(work), max(len(s.blocks) for s, _ in work)), -1, np.int32)
        for table, (sequence, _) in zip(tables, work, strict=True):
            table[: len(sequence.blocks)] = sequence.blocks
        positions = [s.num_tokens + i for s, tokens in work for i in range(len(tokens))]
        if rows is None:
            rows = range(len(positions))
        adapters = np.array([sequence.adapter for sequence, _ in work], np.int32)
        logits = self.runner.run(
            Step(
                token_ids=np.array([t for _, tokens in work for t in tokens], np.int32),
                positions=np.array(positions, np.int32),
                query_starts=np.cumsum([0, *(len(tokens) for _, tokens in work)], dtype=np.int32),
                block_tables=tables,
                logit_rows=np.array(rows, np.int32),
                given=None if given is None else given[0],
                given_rows=None if given is None else given[1].astype(np.int32),
                seen=seen,
                adapters=adapters if (adapters >= 0).any() else None,
                state_segments=self._segments(work),
                rotary=rotary,
            )
        )
        for sequence, tokens in work:
            sequence.num_tokens += len(tokens)
        return np.array(logits)

    def logits(self, token_ids: Sequence[int], chunk: int = 0, adapter: int = -1) -> np.ndarray:
        """All logits of one sequence from position 0, fed alone; 0 means the largest chunks there are."""
        chunk = chunk or self.runner.limits.max_step_tokens
        sequence = DrivenSequence(adapter=adapter)
        parts = [
            self.step([(sequence, token_ids[start : start + chunk])])
            for start in range(0, len(token_ids), chunk)
        ]
        self.finish(sequence)
        return np.concatenate(parts)

    def in_pieces(self, token_ids: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
        """The same, fed in pieces of these sizes."""
        assert sum(sizes) == len(token_ids)
        sequence = DrivenSequence()
        ends = np.cumsum(sizes).tolist()
        parts = [self.step([(sequence, token_ids[a:b])]) for a, b in zip([0, *ends], ends, strict=False)]
        self.finish(sequence)
        return np.concatenate(parts)

    def greedy(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, eos_ids: frozenset[int]
    ) -> list[list[int]]:
        """Each prompt's most likely continuation, all at once; one stops before an end-of-sequence token."""
        outputs: list[list[int]] = [[] for _ in prompts]
        running = [
            (DrivenSequence(), prompt, output) for prompt, output in zip(prompts, outputs, strict=True)
        ]
        for _ in range(max_tokens):
            work = [(sequence, tokens) for sequence, tokens, _ in running]
            last = np.cumsum([len(tokens) for _, tokens in work]) - 1
            chosen = self.step(work, rows=last.tolist()).argmax(axis=1).tolist()
            going_on = []
            for (sequence, _, output), token in zip(running, chosen, strict=True):
                if token in eos_ids:
                    self.finish(sequence)
                    continue
                output.append(token)
                going_on.append((sequence, [token], output))
            running = going_on
            if not running:
                break
        return outputs

    def _segments(self, work: Sequence[tuple[DrivenSequence, Sequence[int]]]) -> np.ndarray | None:
        if not self.runner.limits.num_states:
            return None
        rows, end = [], 0
        for sequence, tokens in work:
            end += len(tokens)
            if sequence.slot < 0:
                sequence.slot = self._free_slots.pop()
            rows.append((end, sequence.slot if sequence.num_tokens else -1, sequence.slot))
        return np.array(rows, np.int32)

    def _reserve(self, sequence: DrivenSequence, num_tokens: int) -> None:
        while len(sequence.blocks) * self.runner.limits.block_size < num_tokens:
            sequence.blocks.append(self._free_blocks.pop())
