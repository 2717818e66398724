"""Engines that the contract suite runs on. An entry: (name, factory of a small deterministic engine)."""

from __future__ import annotations

from collections.abc import Callable

from llm_serving.backends.fake import load_fake_engine
from llm_serving.engine.protocol import Engine, EngineOptions, RunnerLimits


def fake(options: EngineOptions) -> Engine:
    limits = RunnerLimits(
        vocab_size=516,
        block_size=4,
        num_blocks=200,
        max_step_tokens=16,
        max_sequences=options.max_concurrency,
        max_context=128,
    )
    return load_fake_engine(options, limits=limits, random=True, step_seconds=0.0005)


FACTORIES: list[tuple[str, Callable[[EngineOptions], Engine]]] = [("fake", fake)]
