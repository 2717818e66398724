"""Low-rank adapters of newer families: over a directory and over its GGUF file what `peft` gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")
pytest.importorskip("peft", reason="the parity suite needs peft; run it with: make parity")

import newer_families
from family_models import assert_agree, random_ids, their_logits
from gguf_twin import write_twin
from runner_driver import DrivenSequence, RunnerDriver
from test_adapter_parity import adapted
from test_newer_families_parity import TWINS

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft's own
]

# Which rows of queries and keys rotate together differs: in files, in directories, in both, in none.
ROTATIONS = ("ministral3", "exaone4", "cohere", "cohere2", "cohere2_moe", "ernie4_5_moe", "phimoe")


def our_logits(checkpoint: Checkpoint, adapter: Path, ids: list[int]) -> np.ndarray:
    runner = build_runner(checkpoint, EngineOptions(quantization="f32", threads=2, adapters=(adapter,)))
    try:
        return RunnerDriver(runner).step([(DrivenSequence(adapter=0), ids)])
    finally:
        runner.close()


@pytest.mark.parametrize("name", ROTATIONS)
def test_queries_and_keys(name: str, tmp_path: Path) -> None:
    model = newer_families.saved(tmp_path / "model", name)
    adapter = tmp_path / "adapter"
    own = adapted(model, adapter, 2, r=8, lora_alpha=16, target_modules=["q_proj", "k_proj"])
    ids = random_ids()
    theirs = their_logits(own, ids)
    directory = open_checkpoint(tmp_path / "model")
    assert_agree(our_logits(directory, adapter, ids), theirs)
    file = open_checkpoint(write_twin(tmp_path / "m.gguf", directory, TWINS[name]))
    assert_agree(our_logits(file, adapter, ids), theirs)
    with own.disable_adapter():
        plain = their_logits(own, ids)
    assert np.abs(plain - theirs).max() > 0.05 * np.abs(plain).max(), "an adapter that is felt"
