"""Starts of a model with packed weights on disk, counted: what was packed, what was read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import SMALLEST_VOCAB

from llm_serving.checkpoints import open_checkpoint
from llm_serving.native import runner

TOKENS = np.random.default_rng(3).integers(0, SMALLEST_VOCAB, 40).tolist()
LIMIT = 1 << 30


def wait_until_published() -> None:
    for thread in threading.enumerate():
        if thread.name == "publish-packed":
            thread.join()


@dataclass
class Start:
    """What one start of a model gave."""

    logits: np.ndarray
    packed: int  # matrices that were packed
    adopted: int


@pytest.fixture
def start(make_driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Start]:
    """Open the model, keep packed weights in tmp_path/packed, run it."""
    counts = {"packed": 0, "adopted": 0}

    class Counting:
        """A core plan that counts how its matrices came."""

        def __init__(self, core: Any) -> None:
            self._core = core

        def __getattr__(self, name: str) -> Any:
            counts["packed"] += name == "pack"
            counts["adopted"] += name == "adopt"
            return getattr(self._core, name)

    new_plan = runner.core_plan
    monkeypatch.setattr(runner, "core_plan", lambda **options: Counting(new_plan(**options)))

    def go(model: Path, limit: int = LIMIT, **options: Any) -> Start:
        counts.update(packed=0, adopted=0)
        keeping = {"packed_dir": tmp_path / "packed", "packed_bytes": limit}
        driver = make_driver(open_checkpoint(model), threads=2, **keeping, **options)
        logits = driver.logits(TOKENS)
        wait_until_published()
        return Start(logits, counts["packed"], counts["adopted"])

    return go


def packed_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "packed").iterdir())
