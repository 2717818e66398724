"""Every tensor format, bit for bit against the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from llm_serving.checkpoints import Tensor, dequantize
from llm_serving.checkpoints.dequantize import CHUNK_BLOCKS
from llm_serving.checkpoints.kinds import GGUF_KINDS
from llm_serving.errors import CheckpointError


def random_tensor(kind_name: str, rows: int, blocks_per_row: int, seed: int) -> Tensor:
    """Random bytes, so that every bit of the layout counts; the float16 fields may be inf and NaN too."""
    kind = GGUF_KINDS[kind_name]
    data = np.random.default_rng(seed).integers(0, 256, rows * blocks_per_row * kind.block_bytes, np.uint8)
    return Tensor("t", kind_name, (rows, blocks_per_row * kind.block_size), data)


@pytest.mark.parametrize("kind_name", [name for name in GGUF_KINDS if name not in ("Q1_0", "Q2_0")])
def test_equals_the_gguf_package(kind_name: str) -> None:
    tensor = random_tensor(kind_name, 64, 3, seed=7)
    with np.errstate(all="ignore"):
        rows = tensor.data.reshape(64, -1)
        expected = gguf.dequantize(rows, gguf.GGMLQuantizationType[kind_name])
    values = dequantize(tensor)
    assert values.dtype == np.float32
    assert values.shape == tensor.shape
    assert np.isfinite(values).mean() > 0.5
    assert np.array_equal(values, expected, equal_nan=True)


def test_tensors_longer_than_a_chunk_are_complete() -> None:
    tensor = random_tensor("Q8_0", CHUNK_BLOCKS + 3, 2, seed=3)
    values = dequantize(tensor)
    for row in (0, CHUNK_BLOCKS // 2, CHUNK_BLOCKS, CHUNK_BLOCKS + 2):
        part = Tensor("t", "Q8_0", (1, 64), tensor.data[row * 68 : (row + 1) * 68])
        assert np.array_equal(values[row : row + 1], dequantize(part), equal_nan=True)


def test_result_is_a_copy_of_its_own() -> None:
    data = np.arange(3, dtype=np.float32).view(np.uint8)
    data.flags.writeable = False
    values = dequantize(Tensor("t", "F32", (3,), data))
    values += 1
    assert values.tolist() == [1.0, 2.0, 3.0]


def test_values_of_one_kind_in_a_vector_of_several() -> None:
    """Biases of queries, keys and values that stand in turn; blocks of packed values cannot be parted so."""
    values = np.arange(24, dtype=np.float32)
    vector = Tensor("t", "F32", (24,), values.view(np.uint8))
    np.testing.assert_array_equal(
        dequantize(vector.stripe(1, 2, 4)), values.reshape(-1, 4)[:, 1:3].reshape(-1)
    )
    with pytest.raises(CheckpointError, match="no rows that stand 5 by 5"):
        vector.stripe(1, 2, 5)
    with pytest.raises(CheckpointError, match="no rows that stand 4 by 4"):
        Tensor("t", "Q8_0", (32,), np.zeros(34, np.uint8)).stripe(1, 2, 4)
