"""States as recurrent layers have them, for the fake model: a sum over all tokens so far, always checked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llm_serving.engine.protocol import RunnerLimits, Step

_FACTOR = 6364136223846793005


class FakeStates:
    """A slot holds how many tokens a state is of, and their polynomial hash, which knows their order.

    Any mix-up of slots raises RuntimeError: a state that is not that of the sequence's tokens, a slot that
    one sequence writes and another touches in the same step.
    """

    def __init__(self, limits: RunnerLimits) -> None:
        self._counts = [-1] * limits.num_states
        self._sums = [0] * limits.num_states
        self._powers = np.full(limits.max_context, _FACTOR, np.uint64).cumprod(dtype=np.uint64)

    def run(self, step: Step, context: Callable[[int], np.ndarray]) -> None:
        """Take the step's tokens in; `context` gives int32 ids of all tokens up to one of these, by index."""
        segments = step.state_segments
        if segments is None or segments.dtype != np.int32 or segments.shape[1:] != (3,):
            raise RuntimeError("a step has no state segments of the agreed type and shape")
        ends = segments[:, 0]
        if (np.diff(ends, prepend=0) < 1).any() or not np.isin(step.query_starts[1:], ends).all():
            raise RuntimeError("state segments do not cut a step's tokens into stretches of one sequence")
        sequences = np.searchsorted(step.query_starts, ends - 1, "right") - 1
        self._check_owners(segments, sequences)
        begin = 0
        for end, source, target in segments.tolist():
            position = int(step.positions[begin])
            if (source < 0) != (position == 0):
                raise RuntimeError(
                    "a state begins from zeros where its tokens do not, or the other way round"
                )
            count, total = (self._counts[source], self._sums[source]) if source >= 0 else (0, 0)
            if count != position:
                raise RuntimeError(f"a state is of {count} tokens where one of {position} is needed")
            tokens = context(end - 1)
            total = (total + self._sum(tokens[position:], position)) % (1 << 64)
            if total != self._sum(tokens, 0):
                raise RuntimeError("a state is not that of its sequence's tokens")
            self._counts[target], self._sums[target] = len(tokens), total
            begin = end

    def _sum(self, tokens: np.ndarray, position: int) -> int:
        powers = self._powers[position : position + len(tokens)]
        return int((powers * tokens.astype(np.int64).astype(np.uint64)).sum(dtype=np.uint64))

    def _check_owners(self, segments: np.ndarray, sequences: np.ndarray) -> None:
        writers: dict[int, int] = {}
        for (_, _, target), sequence in zip(segments.tolist(), sequences.tolist(), strict=True):
            if not 0 <= target < len(self._counts) or writers.setdefault(target, sequence) != sequence:
                raise RuntimeError("a state's slot is out of range, or two sequences write to it")
        for (_, source, _), sequence in zip(segments.tolist(), sequences.tolist(), strict=True):
            if source >= len(self._counts) or writers.get(source, sequence) != sequence:
                raise RuntimeError("a state is read while another sequence writes it")
