"""The engine's own rates, without HTTP, scheduler and sampler: `ModelRunner.run` on the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llm_serving.engine.protocol import ModelRunner, RunnerLimits, Step


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second of one kind of work; `best` and `median` over the repeats."""

    work: str  # "prefill" or "decode"
    size: int  # prompt tokens, or sequences
    median: float
    best: float


def measure_prefill(runner: ModelRunner, prompt_tokens: int, repeats: int) -> Rate:
    """One prompt, cut into as few steps as the runner allows; logits of its last token."""
    tokens = _tokens(runner.limits, prompt_tokens)

    def prefill() -> int:
        _feed(runner, tokens, _tables(runner.limits, 1, prompt_tokens))
        return prompt_tokens

    return _rate("prefill", prompt_tokens, prefill, repeats)


def measure_decode(runner: ModelRunner, batch: int, context: int, steps: int, repeats: int) -> Rate:
    """`batch` sequences of `context` tokens each grow by one token a step."""
    limits = runner.limits
    tables = _tables(limits, batch, context + steps)
    for sequence in range(batch):
        _feed(runner, _tokens(limits, context), tables[sequence : sequence + 1], sequence)
    rows = np.arange(batch, dtype=np.int32)
    starts = np.arange(batch + 1, dtype=np.int32)
    token_ids = _tokens(limits, batch)
    states = np.stack([rows + 1, rows, rows], axis=1) if limits.num_states else None

    def decode() -> int:
        for position in range(context, context + steps):
            positions = np.full(batch, position, np.int32)
            runner.run(Step(token_ids, positions, starts, tables, rows, state_segments=states))
        return batch * steps

    return _rate("decode", batch, decode, repeats)


def _feed(runner: ModelRunner, tokens: np.ndarray, table: np.ndarray, slot: int = 0) -> None:
    """A sequence's first tokens; its state, if it has one, lies in `slot`."""
    size = runner.limits.max_step_tokens
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        last = start + len(part) == len(tokens)
        state = np.array([[len(part), slot if start else -1, slot]], np.int32)
        runner.run(
            Step(
                token_ids=part,
                positions=np.arange(start, start + len(part), dtype=np.int32),
                query_starts=np.array([0, len(part)], np.int32),
                block_tables=table,
                logit_rows=np.array([len(part) - 1] if last else [], np.int32),
                state_segments=state if runner.limits.num_states else None,
            )
        )


def _rate(work: str, size: int, run: Callable[[], int], repeats: int) -> Rate:
    run()  # touches every page of weights and KV once
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        num_tokens = run()
        rates.append(num_tokens / (time.perf_counter() - start))
    return Rate(work, size, statistics.median(rates), max(rates))


def _tokens(limits: RunnerLimits, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, limits.vocab_size, count, dtype=np.int32)


def _tables(limits: RunnerLimits, batch: int, tokens: int) -> np.ndarray:
    """Each sequence gets blocks of its own, one after the other."""
    per_sequence = -(-tokens // limits.block_size)
    return np.arange(batch * per_sequence, dtype=np.int32).reshape(batch, per_sequence)
