"""Runners that the contract suite runs on. An entry: (name, factory of a small runner).

A runner under test has a vocabulary of at least 256 ids, a context of at least 64 tokens, room for at least
four sequences of that length, and carries at least 32 tokens of at least four sequences in a step.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_serving.backends.fake import VOCAB_SIZE, FakeRunner
from llm_serving.engine.protocol import ModelRunner, RunnerLimits

LIMITS = RunnerLimits(
    vocab_size=VOCAB_SIZE, block_size=4, num_blocks=80, max_step_tokens=48, max_sequences=6, max_context=64
)

FACTORIES: list[tuple[str, Callable[[], ModelRunner]]] = [
    ("fake", lambda: FakeRunner(LIMITS)),
    ("fake-random", lambda: FakeRunner(LIMITS, random=True)),
]
