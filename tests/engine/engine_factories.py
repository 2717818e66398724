"""Engines that the contract suite runs on. An entry: a factory of a small deterministic engine."""

from __future__ import annotations

import atexit
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_tiny_llama

from llm_serving.backends.fake import load_fake_engine
from llm_serving.engine.async_engine import AsyncEngine
from llm_serving.engine.protocol import Engine, EngineOptions, ModelRunner, RunnerLimits, Step

STEP_S = 0.0005  # what a step takes at least: tests look at requests on their way


class Unhurried:
    """A runner whose tiny model takes the time of a small one."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.limits = runner.limits

    def run(self, step: Step) -> np.ndarray:
        time.sleep(STEP_S)
        return self._runner.run(step)

    def close(self) -> None:
        self._runner.close()


def fake(options: EngineOptions) -> Engine:
    limits = RunnerLimits(
        vocab_size=516,
        block_size=4,
        num_blocks=200,
        max_step_tokens=16,
        max_sequences=options.max_concurrency,
        max_context=128,
    )
    return load_fake_engine(options, limits=limits, random=True, step_seconds=STEP_S)


def native(options: EngineOptions) -> Engine:
    from llm_serving.backends.native_backend import build_runner
    from llm_serving.checkpoints import build_tokenizer, open_checkpoint
    from llm_serving.native.sampler import NativeSampler

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write_tiny_llama(Path(folder) / "tiny.gguf", vocab=516))
        runner = build_runner(checkpoint, options)
        sampler = NativeSampler(runner.threads, runner.isa)
        token_bytes = build_tokenizer(checkpoint).token_bytes
        return AsyncEngine(Unhurried(runner), sampler, token_bytes, options, "cpu")


@cache
def tiny_directory() -> Path:
    sys.path.append(str(Path(__file__).parents[1] / "transformers_engine"))
    from tiny_directories import write_model

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return write_model(Path(folder.name), "qwen2", vocab_size=516)


def transformers(options: EngineOptions) -> Engine:
    pytest.importorskip("torch", reason="needs torch; run it with: make parity")
    from llm_serving.backends.transformers_backend import load_causal_lm

    return load_causal_lm(tiny_directory(), options, "cpu").engine


FACTORIES = [
    pytest.param(fake, id="fake"),
    pytest.param(native, id="native", marks=pytest.mark.slow),
    pytest.param(transformers, id="transformers", marks=pytest.mark.parity),
]
