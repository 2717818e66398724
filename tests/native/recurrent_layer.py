"""A recurrent layer's operations on rows that are given, and what each such layer promises: the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llm_serving.native.core import load_core

core = load_core()
TOKENS = 70


class RecurrentLayer:
    """What lies between a layer's matrices, for two sequences at most; its operations are put on `plan`."""

    def __init__(self, width: int, outputs: int, isa: str, threads: int) -> None:
        self.plan: Any = core.Plan(threads, isa, TOKENS, TOKENS)
        self.mixed, self.found = self.plan.buffer(width), self.plan.buffer(outputs)
        self.plan.given(self.mixed)

    def run(self, rows: np.ndarray, first: list[int], segments: list[tuple[int, int, int]]) -> np.ndarray:
        """Rows of sequences that go on at positions `first`; of several, each has one segment."""
        count = len(rows)
        ends = [end for end, _, _ in segments] if len(first) > 1 else [count]
        starts = np.array([0, *ends], np.int32)
        positions = [np.arange(end - begin) + at for begin, end, at in zip(starts, ends, first, strict=False)]
        found = self.plan.run(
            np.zeros(count, np.int32),
            np.concatenate(positions).astype(np.int32),
            starts,
            np.zeros((len(first), 1), np.int32),
            np.zeros(0, np.int32),
            self.found,
            rows,
            np.arange(count, dtype=np.int32),
            state_segments=np.array(segments, np.int32),
        )
        return np.array(found)


Make = Callable[[str, int], RecurrentLayer]  # of an instruction set, with so many threads


def random_rows(width: int, count: int = TOKENS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, width)).astype(np.float32)


def check_instruction_sets_and_threads(make: Make, rows: np.ndarray) -> None:
    first, *others = (
        make(isa, threads).run(rows, [0], [(TOKENS, -1, 0)])
        for isa in core.instruction_sets()
        for threads in (1, 3)
    )
    for other in others:
        np.testing.assert_array_equal(other, first)


def check_cuts(make: Make, rows: np.ndarray, isa: str) -> None:
    """Into steps, and within a step into segments that leave the state in other slots."""
    whole = make(isa, 1).run(rows, [0], [(TOKENS, -1, 0)])
    layer = make(isa, 1)
    parts = [
        layer.run(rows[:1], [0], [(1, -1, 2)]),
        layer.run(rows[1:30], [1], [(2, 2, 1), (16, 1, 1), (29, 1, 3)]),
    ]
    parts += [layer.run(rows[t : t + 1], [t], [(1, 3, 3)]) for t in range(30, 40)]
    parts.append(layer.run(rows[40:], [40], [(30, 3, 0)]))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    again = layer.run(rows[17:30], [17], [(13, 1, 2)])  # from the state that was left behind seventeen
    np.testing.assert_array_equal(again, whole[17:30])


def check_sequences_do_not_meet(make: Make, one: np.ndarray, other: np.ndarray) -> None:
    """Forty rows and thirty."""
    layer = make("auto", 2)
    both = layer.run(np.concatenate([one[:25], other]), [0, 0], [(25, -1, 1), (55, -1, 0)])
    rest = layer.run(one[25:], [25], [(15, 1, 1)])
    alone = make("auto", 1).run(one, [0], [(40, -1, 0)])
    np.testing.assert_array_equal(np.concatenate([both[:25], rest]), alone)
    np.testing.assert_array_equal(both[25:], make("auto", 1).run(other, [0], [(30, -1, 0)]))
