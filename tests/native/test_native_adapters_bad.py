"""Adapters that do not fit the model or the memory, and steps that name others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_adapters import chosen, module_shapes, random_matrices, write_adapter, write_matrices
from tiny_models import write_tiny_llama

from llm_serving.backends.native_backend import memory_need
from llm_serving.checkpoints import open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError, ServingError

SHORT = [5, 40, 7, 90, 16]


def test_a_step_cannot_name_an_adapter_that_is_not_there(tmp_path: Path, make_driver) -> None:
    file = open_checkpoint(str(write_tiny_llama(tmp_path / "m.gguf")))
    driver = make_driver(file, adapters=(write_adapter(tmp_path / "a", file),))
    for adapter in (1, 1 << 30):
        with pytest.raises(ValueError, match="adapter that the model does not know"):
            driver.logits(SHORT, adapter=adapter)
    with pytest.raises(ValueError, match="adapter that the model does not know"):
        make_driver(file).logits(SHORT, adapter=0)


def test_their_bytes_are_planned(tmp_path: Path, make_driver) -> None:
    file = open_checkpoint(str(write_tiny_llama(tmp_path / "m.gguf")))
    paths = tuple(write_adapter(tmp_path / str(rank), file, rank=rank) for rank in (8, 512))
    without, *with_more = (
        memory_need(file, EngineOptions(adapters=adapters)).weights for adapters in ((), paths[:1], paths)
    )
    taken = [make_driver(file, adapters=adapters).runner.weight_bytes for adapters in ((), paths[:1], paths)]
    for planned, own in zip(with_more, taken[1:], strict=True):
        assert own - taken[0] <= planned - without <= 1.1 * (own - taken[0])
    with pytest.raises(ServingError, match="Not enough memory"):
        make_driver(file, adapters=paths, memory_bytes=without + (1 << 20))


@pytest.mark.parametrize(
    ("module", "down", "up", "problem"),
    [
        ("model.layers.0.self_attn.q_proj", (4, 32), (64, 4), "lora_A.weight' .* it was made for another"),
        ("model.layers.0.self_attn.k_proj", (4, 64), (64, 4), "lora_B.weight' .* it was made for another"),
        ("model.layers.2.self_attn.q_proj", (4, 64), (64, 4), "layers.2.self_attn.q_proj'. This model has"),
        ("model.layers.0.mlp.gate_up_proj", (4, 64), (192, 4), "gate_up_proj'. This model has"),
        ("model.layers.0.mlp.experts.0.up_proj", (4, 64), (96, 4), "experts.0.up_proj'. This model has"),
        ("model.vision_model.layers.0.self_attn.q_proj", (4, 64), (64, 4), "vision_model.*This model has"),
    ],
)
def test_adapters_of_other_models(
    tmp_path: Path, make_driver, module: str, down: tuple[int, int], up: tuple[int, int], problem: str
) -> None:
    file = open_checkpoint(str(write_tiny_llama(tmp_path / "m.gguf")))
    matrices = random_matrices(chosen(module_shapes(file), ("v_proj",)), 4, 1)
    matrices[module] = np.zeros(down, np.float32), np.zeros(up, np.float32)
    with pytest.raises(CheckpointError, match=problem):
        make_driver(file, adapters=(write_matrices(tmp_path / "a", matrices),))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(tmp_path: Path, make_driver, which: int, value: float) -> None:
    file = open_checkpoint(str(write_tiny_llama(tmp_path / "m.gguf")))
    matrices = random_matrices(chosen(module_shapes(file), ("v_proj",)), 4, 1)
    matrices["model.layers.1.self_attn.v_proj"][which][2, 3] = value
    with pytest.raises(CheckpointError, match="layers.1.self_attn.v_proj.lora_.* are no numbers"):
        make_driver(file, adapters=(write_matrices(tmp_path / "a", matrices),))
