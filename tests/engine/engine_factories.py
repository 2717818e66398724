"""Engines that the contract suite runs on. An entry: a factory of a small deterministic engine."""

from __future__ import annotations

import atexit
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from tiny_models import write_tiny_llama

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


def native(options: EngineOptions) -> Engine:
    from llm_serving.backends import load_engine
    from llm_serving.checkpoints import build_tokenizer, open_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write_tiny_llama(Path(folder) / "tiny.gguf", vocab=516))
        return load_engine("native", checkpoint, build_tokenizer(checkpoint).token_bytes, options)


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
    pytest.param(native, id="native"),
    pytest.param(transformers, id="transformers", marks=pytest.mark.parity),
]
