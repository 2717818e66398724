"""What vLLM tells of its steps."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase


class StepStats(StatLoggerBase):  # type: ignore[misc, unused-ignore]
    """The latest numbers; written on vLLM's loop, read from any thread."""

    def __init__(self, vllm_config: Any = None, engine_index: int = 0) -> None:
        self.kv_usage = 0.0  # share of the blocks that running requests hold
        self.num_steps = 0
        self.num_preemptions = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *others: Any, **more: Any) -> None:
        """Called once a step."""
        self.num_steps += 1
        if scheduler_stats is not None:
            self.kv_usage = scheduler_stats.kv_cache_usage
        if iteration_stats is not None:
            self.num_preemptions += iteration_stats.num_preempted_reqs

    def log_engine_initialized(self) -> None:
        """Nobody has to be told."""
