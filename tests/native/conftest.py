"""Makes the modules beside and above these tests importable, and opens models for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from real_model import real_model_path
from runner_driver import RunnerDriver

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions

MakeDriver = Callable[..., RunnerDriver]


@pytest.fixture(scope="session")
def real_packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options that have the real model packed once, by the first test that needs it."""
    return {"packed_dir": tmp_path_factory.mktemp("packed"), "packed_bytes": 1 << 30}


@pytest.fixture
def make_driver() -> Iterator[MakeDriver]:
    """Builds a native runner for a checkpoint and a driver for it; closes it after the test."""
    runners = []

    def make(
        checkpoint: Checkpoint, *, isa: str = "auto", threads: int = 1, seed: int = 0, **options: Any
    ) -> RunnerDriver:
        settings = EngineOptions(threads=threads, **{"max_concurrency": 8, **options})
        runners.append(build_runner(checkpoint, settings, isa=isa))
        return RunnerDriver(runners[-1], seed)

    yield make
    for runner in runners:
        runner.close()


@pytest.fixture(scope="session")
def real_checkpoint() -> Checkpoint:
    return open_checkpoint(str(real_model_path()))
