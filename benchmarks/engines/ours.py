"""Our engine: the model runner, without scheduler and sampler."""

from __future__ import annotations

from pathlib import Path

from worker import arguments, quiet_stdout, serve

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import open_checkpoint
from llm_serving.cli.bench_engine import measure_decode, measure_prefill
from llm_serving.engine.protocol import EngineOptions


class Ours:
    def __init__(self, model: str, threads: int, max_sequences: int, max_context: int, kv_cache: str) -> None:
        options = EngineOptions(
            threads=threads, context_length=max_context, max_concurrency=max_sequences, kv_cache=kv_cache
        )
        self._runner = build_runner(open_checkpoint(Path(model)), options)

    def prefill(self, tokens: int) -> float:
        measure_prefill(self._runner, tokens, 1)  # as of llama.cpp, the second counts
        return measure_prefill(self._runner, tokens, 1).median

    def decode(self, sequences: int, context: int, steps: int) -> float:
        return measure_decode(self._runner, sequences, context, steps, 1).median


if __name__ == "__main__":
    answers, told = quiet_stdout(), arguments()
    serve(Ours(told.model, told.threads, told.max_sequences, told.max_context, told.kv_cache), answers)
