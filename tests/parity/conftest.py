"""Makes the reference, the driver and the tiny models importable; opens the real model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "native"))

from real_model import real_model_path

from llm_serving.checkpoints import Checkpoint, open_checkpoint


@pytest.fixture(scope="session")
def real_checkpoint() -> Checkpoint:
    return open_checkpoint(str(real_model_path()))
