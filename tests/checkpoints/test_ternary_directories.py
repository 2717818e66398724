"""Directories with ternary matrices, four weights a byte: what they are, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import write_json, write_safetensors

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.service.facts import facts_of

DIVIDED = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
MULTIPLIED = {**DIVIDED, "linear_class": "autobitlinear", "quantization_mode": "offline"}
ROWS, COLS = 48, 192


def ternary(cols: int = COLS) -> np.ndarray:
    return np.random.default_rng(0).integers(-1, 2, (ROWS, cols)).astype(np.int8)


def packed(weights: np.ndarray) -> np.ndarray:
    """Row by row, one of each quarter a byte, as the format's description says."""
    count = len(weights) // 4
    out = np.zeros((count, weights.shape[1]), np.uint8)
    for row, numbers in enumerate(weights):
        out[row % count] |= (numbers + 1).astype(np.uint8) << 2 * (row // count)
    return out


def opened(directory: Path, packing: Any, **change: Any) -> Checkpoint:
    write_json(directory / "config.json", {"model_type": "llama", "quantization_config": packing})
    arrays = {"weight": packed(ternary()), "weight_scale": np.array([0.5], np.float32), **change}
    tensors = {f"a.b.{name}": array for name, array in arrays.items() if array is not None}
    tensors["lm_head.weight"] = np.ones((8, 8), np.float32)
    write_safetensors(directory / "model.safetensors", tensors)
    return open_checkpoint(directory)


@pytest.mark.parametrize(("packing", "factor"), [(DIVIDED, 2.0), (MULTIPLIED, 0.5)])
def test_weights_are_ternary_times_one_number(tmp_path: Path, packing: Any, factor: float) -> None:
    checkpoint = opened(tmp_path, packing)
    tensor = checkpoint.tensor("a.b.weight")
    assert (tensor.kind, tensor.shape) == ("Q4_0", (ROWS, COLS))
    np.testing.assert_array_equal(dequantize(tensor), factor * ternary().astype(np.float32))
    np.testing.assert_array_equal(dequantize(tensor.rows([47, 1])), factor * ternary()[[47, 1]])
    assert checkpoint.tensor("lm_head.weight").unpack is None
    assert checkpoint.extras == {"skipped_tensors": {}}
    assert facts_of(checkpoint).quantization == "BITNET"


def test_rows_that_are_no_multiple_of_32(tmp_path: Path) -> None:
    weights = ternary(80)
    tensor = opened(tmp_path, MULTIPLIED, weight=packed(weights)).tensor("a.b.weight")
    assert tensor.kind == "F32"
    np.testing.assert_array_equal(dequantize(tensor), np.float32(0.5) * weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.ones((48, 192), np.float32)}, r"'a\.b\.weight' is of F32 .* U8 and 2 dimensions"),
        ({"weight": np.ones(192, np.uint8)}, r"'a\.b\.weight' is of U8 and shape \(192,\)"),
        ({"weight_scale": np.ones(2, np.float32)}, r"'a\.b\.weight_scale' is not one number above 0"),
        ({"weight_scale": np.zeros(1, np.float32)}, "not one number above 0"),
        ({"weight_scale": np.full(1, np.nan, np.float32)}, "not one number above 0"),
        ({"weight_scale": np.full(1, np.inf, np.float32)}, "not one number above 0"),
        ({"weight_scale": np.ones(1, np.int8)}, r"'a\.b\.weight_scale' is of I8"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, DIVIDED, **change)


@pytest.mark.parametrize(
    ("packing", "change", "message"),
    [
        ({**DIVIDED, "use_rms_norm": True}, {}, "'use_rms_norm' of 'quantization_config' is not read"),
        ({**MULTIPLIED, "quantization_mode": "online"}, {}, "'quantization_mode' .* is not 'offline'"),
        (DIVIDED, {"weight_scale": None}, r"'a\.b\.weight' of U8 is packed in a form that is not read"),
    ],
)
def test_what_is_not_read_is_told_when_the_model_is_wanted(
    tmp_path: Path, packing: Any, change: Any, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        describe(opened(tmp_path, packing, **change))
