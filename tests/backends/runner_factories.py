"""Runners that the contract suite runs on. An entry: (name, factory of a small runner).

A runner under test has a vocabulary of at least 256 ids, a context of at least 64 tokens, room for at least
four sequences of that length, and carries at least 32 tokens of at least four sequences in a step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tiny_granite_hybrid import write_tiny_granite_hybrid
from tiny_lfm2 import write_tiny_lfm2
from tiny_models import write_tiny_llama, write_tiny_qwen2
from tiny_qwen35 import write_tiny_qwen35
from tiny_states import write_tiny_states

from llm_serving.backends.fake import VOCAB_SIZE, FakeRunner
from llm_serving.engine.protocol import ModelRunner, RunnerLimits

LIMITS = RunnerLimits(
    vocab_size=VOCAB_SIZE, block_size=4, num_blocks=80, max_step_tokens=48, max_sequences=6, max_context=64
)


def native(write: Callable[[Path], Path], kv_cache: str = "auto") -> ModelRunner:
    """Weights are packed when the runner is built, so the file may go at once."""
    from llm_serving.backends.native_backend import build_runner
    from llm_serving.checkpoints import open_checkpoint
    from llm_serving.engine.protocol import EngineOptions

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write(Path(folder) / "tiny.gguf"))
        options = EngineOptions(threads=2, context_length=64, max_concurrency=8, kv_cache=kv_cache)
        return build_runner(checkpoint, options)


FACTORIES: list[tuple[str, Callable[[], ModelRunner]]] = [
    ("fake", lambda: FakeRunner(LIMITS)),
    ("fake-states", lambda: FakeRunner(replace(LIMITS, num_states=12, takes_drafts=False))),
    ("fake-random", lambda: FakeRunner(LIMITS, random=True)),
    ("native-llama", lambda: native(write_tiny_llama)),
    ("native-qwen2", lambda: native(write_tiny_qwen2)),
    ("native-lfm2", lambda: native(write_tiny_lfm2)),
    ("native-qwen35", lambda: native(write_tiny_qwen35)),
    ("native-mamba", lambda: native(write_tiny_granite_hybrid)),
    ("native-no-keys", lambda: native(lambda path: write_tiny_states(path, "mamba"))),
    ("native-q8-kv", lambda: native(write_tiny_llama, "q8")),
    ("native-q4-kv", lambda: native(write_tiny_llama, "q4")),
]
