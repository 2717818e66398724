"""Packed weights of directories are the numbers that their formats say; whatever does not fit is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import write_json, write_safetensors
from tiny_quantized import awq, compressed, float8, gptq, quantize, signed_bytes

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint
from llm_serving.errors import CheckpointError

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
FP8 = {"quant_method": "fp8", "weight_block_size": [32, 64]}
ROWS, COLS = 48, 128


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.01, 0.05, (ROWS, COLS)).astype(np.float32)


def opened(directory: Path, packing: Any, arrays: dict[str, np.ndarray], name: str = "a.b") -> Checkpoint:
    write_json(directory / "config.json", {"model_type": "llama", "quantization_config": packing})
    tensors = {f"{name}.{end}": array for end, array in arrays.items()}
    write_safetensors(directory / "model.safetensors", {**tensors, "norm.weight": np.ones(8, np.float32)})
    return open_checkpoint(directory)


CASES: dict[str, tuple[dict[str, Any], Any, dict[str, Any], str]] = {
    "gptq, symmetric": (GPTQ, gptq, {"symmetric": True}, "Q4_0"),
    "gptq": (GPTQ, gptq, {}, "Q4_1"),
    "gptq, one group a row": (GPTQ, gptq, {"group": COLS}, "Q4_1"),
    "gptq, groups of 16": (GPTQ, gptq, {"group": 16}, "F32"),
    "gptq, sorted inputs": (GPTQ, gptq, {"sorted_inputs": True, "symmetric": True}, "F32"),
    "gptq, version 2": (
        {**GPTQ, "checkpoint_format": "gptq_v2"},
        lambda q: gptq(q, version=2),
        {"symmetric": True},
        "Q4_0",
    ),
    "gptq, 8 bits": (
        {**GPTQ, "bits": 8},
        lambda q: gptq(q, bits=8),
        {"bits": 8, "symmetric": True},
        "Q8_0",
    ),
    "gptq, 8 bits with zero points": ({**GPTQ, "bits": 8}, lambda q: gptq(q, bits=8), {"bits": 8}, "F32"),
    "auto-round": (
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4},
        gptq,
        {"symmetric": True},
        "Q4_0",
    ),
    "awq": (AWQ, awq, {"group": 64}, "Q4_1"),
    "compressed": (COMPRESSED, compressed, {}, "Q4_1"),
    "compressed, symmetric": (
        COMPRESSED,
        lambda q: compressed(q, has_zeros=False),
        {"symmetric": True, "group": 128},
        "Q4_0",
    ),
    "compressed, 8 bits": (
        COMPRESSED,
        lambda q: compressed(q, bits=8, has_zeros=False),
        {"bits": 8, "symmetric": True},
        "Q8_0",
    ),
    "signed bytes": (
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        signed_bytes,
        {"bits": 8, "symmetric": True, "group": COLS},
        "Q8_0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_packed_integers_are_their_numbers(tmp_path: Path, case: str) -> None:
    packing, pack, how, kind = CASES[case]
    q = quantize(values(), **how)
    checkpoint = opened(tmp_path, packing, pack(q))
    tensor = checkpoint.tensor("a.b.weight")
    assert (tensor.kind, tensor.shape) == (kind, (ROWS, COLS))
    # A minimum of Q4_1 is rounded to F16; all else is exact.
    largest = np.abs(q.zeros * q.scales.astype(np.float32)).max()
    np.testing.assert_allclose(
        dequantize(tensor), q.values, rtol=0, atol=largest * 2**-11 if kind == "Q4_1" else 0
    )
    np.testing.assert_array_equal(dequantize(tensor.rows([3, 1])), dequantize(tensor)[[3, 1]])
    np.testing.assert_array_equal(dequantize(tensor.part(1, 2)), dequantize(tensor)[ROWS // 2 :])
    np.testing.assert_array_equal(
        dequantize(tensor.stripe(1, 2, 4)), dequantize(tensor).reshape(-1, 4, COLS)[:, 1:3].reshape(-1, COLS)
    )
    assert set(checkpoint.tensors) == {"a.b.weight", "norm.weight"}
    assert checkpoint.extras["skipped_tensors"] == {}


@pytest.mark.parametrize(
    ("block", "end", "packing"),
    [
        ((32, 64), "weight_scale_inv", FP8),  # the last block of rows is cut
        ((1, COLS), "weight_scale", {"quant_method": "compressed-tensors"}),
        ((ROWS, COLS), "weight_scale", {"quant_method": "fp8"}),
    ],
)
def test_bytes_that_are_floats(tmp_path: Path, block: tuple[int, int], end: str, packing: Any) -> None:
    packed, scales, exact = float8(values(), block)
    tensor = opened(tmp_path, packing, {"weight": packed, end: scales}).tensor("a.b.weight")
    assert (tensor.kind, tensor.shape) == ("F32", (ROWS, COLS))
    np.testing.assert_array_equal(dequantize(tensor), exact)


def test_a_block_may_be_larger_than_all(tmp_path: Path) -> None:
    """And takes no more memory than the matrix."""
    packed, scales, exact = float8(values(), (ROWS, COLS))
    packing = {"quant_method": "fp8", "weight_block_size": [1 << 40, 1 << 40]}
    tensor = opened(tmp_path, packing, {"weight": packed, "weight_scale_inv": scales}).tensor("a.b.weight")
    np.testing.assert_array_equal(dequantize(tensor), exact)


def test_one_scale_may_be_a_number_or_a_vector(tmp_path: Path) -> None:
    packed, _, _ = float8(values(), (ROWS, COLS))
    for index, scale in enumerate((np.array(0.5, np.float32), np.array([0.5], np.float32))):
        one = opened(
            tmp_path / str(index), {"quant_method": "fp8"}, {"weight": packed, "weight_scale": scale}
        )
        two = opened(
            tmp_path / f"{index}b", {"quant_method": "fp8"}, {"weight": packed, "weight_scale": 2 * scale}
        )
        np.testing.assert_array_equal(
            2 * dequantize(one.tensor("a.b.weight")), dequantize(two.tensor("a.b.weight"))
        )


def test_a_not_a_number_stays_one(tmp_path: Path) -> None:
    packed = np.full((ROWS, COLS), 0x7F, np.uint8).view("V1")
    arrays = {"weight": packed, "weight_scale": np.ones(1, np.float32)}
    assert np.isnan(dequantize(opened(tmp_path, {"quant_method": "fp8"}, arrays).tensor("a.b.weight"))).all()


def test_scales_of_other_rows_than_the_bytes(tmp_path: Path) -> None:
    arrays = signed_bytes(quantize(values(), bits=8, symmetric=True, group=COLS))
    for name, change in (
        ("weight_scale", np.ones(10, np.float32)),
        ("weight_zero_point", np.ones(10, np.int8)),
    ):
        with pytest.raises(CheckpointError, match="do not fit its 48 x 128 weights"):
            opened(tmp_path / name, {"quant_method": "compressed-tensors"}, {**arrays, name: change})


def test_signed_bytes_with_a_zero_point_each_row(tmp_path: Path) -> None:
    q = quantize(values(), bits=8, group=COLS)
    arrays = {**signed_bytes(q), "weight_zero_point": (q.zeros - 128).astype(np.int8)}
    tensor = opened(tmp_path, {"quant_method": "compressed-tensors"}, arrays).tensor("a.b.weight")
    np.testing.assert_array_equal(dequantize(tensor), q.values)


@pytest.mark.parametrize(
    ("packing", "change", "message"),
    [
        (GPTQ, {"scales": None}, "'a.b.scales' is missing"),
        (GPTQ, {"qzeros": None}, "'a.b.qzeros' is missing"),
        (GPTQ, {"qzeros": np.zeros((4, 5), np.int32)}, "zero points of 'a.b' do not fit its 48 x 128"),
        (GPTQ, {"scales": np.ones((3, ROWS), np.float16)}, "do not fit its 48 x 128"),
        (GPTQ, {"scales": np.ones((4, ROWS), np.uint8)}, "'a.b.scales' is of U8"),
        (GPTQ, {"qweight": np.zeros((0, ROWS), np.int32)}, r"'a.b.qweight' is of I32 and shape \(0, 48\)"),
        (GPTQ, {"g_idx": np.full(COLS, 4, np.int32)}, "do not fit its 48 x 128"),
        (GPTQ, {"g_idx": np.full(COLS, -1, np.int32)}, "do not fit its 48 x 128"),
        (GPTQ, {"g_idx": np.zeros(5, np.int32)}, "do not fit its 48 x 128"),
        ({**GPTQ, "bits": 3}, {}, "'bits' .* is 3; weights of 4 and 8 bits are read"),
        ({"quant_method": "gptq"}, {}, "'bits' .* is None"),
        ({**AWQ, "bits": 8}, {}, "AWQ weights of 4 bits"),
    ],
)
def test_tensors_that_do_not_fit_each_other(tmp_path: Path, packing: Any, change: Any, message: str) -> None:
    arrays = {**gptq(quantize(values(), symmetric=True)), **change}
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, packing, {name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize("shape", [(128,), (48, 128, 1), (48, 96), (48, 0), (48, -128), (0, 2**62)])
def test_a_shape_that_words_do_not_have(tmp_path: Path, shape: tuple[int, int]) -> None:
    arrays = {**compressed(quantize(values())), "weight_shape": np.array(shape, np.int64)}
    with pytest.raises(CheckpointError, match=r"'a\.b\.weight_packed' has no weights of 4 or 8 bits"):
        opened(tmp_path, COMPRESSED, arrays)


def test_floats_without_their_scales(tmp_path: Path) -> None:
    packed, scales, _ = float8(values(), (32, 64))
    with pytest.raises(CheckpointError, match=r"'a\.b\.weight_scale' is missing"):
        opened(tmp_path / "a", FP8, {"weight": packed})
    with pytest.raises(CheckpointError, match=r"needs \(2, 2\) scales, but there are \(1, 2\)"):
        opened(tmp_path / "b", FP8, {"weight": packed, "weight_scale_inv": scales[:1]})


@pytest.mark.parametrize(
    ("packing", "message"),
    [
        (
            {"quant_method": "hqq"},
            "'hqq'; weights packed by gptq, awq",
        ),
        ({**AWQ, "version": "gemv"}, "AWQ's layout 'gemv'"),
        ("fp8", "is no object"),
    ],
)
def test_what_is_not_read_is_told_when_the_model_is_wanted(
    tmp_path: Path, packing: Any, message: str
) -> None:
    checkpoint = opened(tmp_path, packing, {"weight": np.zeros((4, 4), np.uint8)})
    with pytest.raises(CheckpointError, match=message):
        describe(checkpoint)


@pytest.mark.parametrize("sides", [[0, 64], [32], [32, 64, 1], ["32", 64], "32", [True, 64], {}, [-1, -1]])
def test_sides_that_no_block_has(tmp_path: Path, sides: Any) -> None:
    packed, scales, _ = float8(values(), (32, 64))
    packing = {"quant_method": "fp8", "weight_block_size": sides}
    with pytest.raises(CheckpointError, match="'weight_block_size' is .*; two positive integers"):
        opened(tmp_path, packing, {"weight": packed, "weight_scale_inv": scales})


def test_a_form_that_a_known_method_also_has(tmp_path: Path) -> None:
    """As modelopt's AWQ is: bytes with scales that are floats."""
    arrays = {"weight": np.zeros((4, 16), np.uint8), "weight_scale": np.zeros((4, 2), np.float16)}
    with pytest.raises(CheckpointError, match=r"'a\.b\.weight' of U8 is packed in a form"):
        describe(opened(tmp_path, COMPRESSED, arrays))


def test_without_a_configuration_nothing_is_taken_for_packed(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, None, gptq(quantize(values())))
    assert set(checkpoint.tensors) == {"norm.weight", "a.b.scales"}
