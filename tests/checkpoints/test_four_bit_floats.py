"""NF4, FP4, NVFP4 and MXFP4 of directories are the numbers that formats say; what does not fit is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import write_json, write_safetensors
from tiny_quantized import bitsandbytes_bytes, mxfp4, nf4, nvfp4

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.service.facts import facts_of

BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
ROWS, COLS = 48, 192
STATE = "weight.quant_state.bitsandbytes__nf4"
Pack = Callable[[np.ndarray], tuple[dict[str, np.ndarray], np.ndarray]]


def values(cols: int = COLS) -> np.ndarray:
    return np.random.default_rng(0).normal(0.01, 0.05, (ROWS, cols)).astype(np.float32)


def opened(directory: Path, packing: Any, arrays: dict[str, np.ndarray]) -> Checkpoint:
    write_json(directory / "config.json", {"model_type": "llama", "quantization_config": packing})
    tensors = {f"a.b.{end}": array for end, array in arrays.items()}
    write_safetensors(
        directory / "model.safetensors", {**tensors, "lm_head.weight": np.ones((8, 8), np.float32)}
    )
    return open_checkpoint(directory)


CASES: dict[str, tuple[dict[str, Any], Pack, str]] = {
    "nf4": (BNB, nf4, "NF4"),
    "nf4, magnitudes in bytes": (BNB, lambda v: nf4(v, nested=True), "NF4"),
    "nf4, blocks longer than rows": (BNB, lambda v: nf4(v, block=512), "NF4"),
    "nf4, blocks that end within rows": (BNB, lambda v: nf4(v, block=128), "NF4"),
    "nf4, blocks of 32": (BNB, lambda v: nf4(v, block=32), "NF4"),
    "nf4, as older files tell it": ({"load_in_4bit": True}, nf4, "NF4"),
    "fp4": (BNB, lambda v: nf4(v, "fp4"), "F32"),
    "fp4, magnitudes in bytes": (BNB, lambda v: nf4(v, "fp4", block=4096, nested=True), "F32"),
    "bytes": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, bitsandbytes_bytes, "Q8_0"),
    "nvfp4": (COMPRESSED, nvfp4, "E2M1_16"),
    "nvfp4 of modelopt": (MODELOPT, lambda v: nvfp4(v, modelopt=True), "E2M1_16"),
    "mxfp4": (COMPRESSED, mxfp4, "MXFP4"),
}


@pytest.mark.parametrize("case", CASES)
def test_packed_floats_are_their_numbers(tmp_path: Path, case: str) -> None:
    packing, pack, kind = CASES[case]
    arrays, exact = pack(values())
    assert 0 < np.abs(exact - values()).max() < 0.1
    checkpoint = opened(tmp_path, packing, arrays)
    tensor = checkpoint.tensor("a.b.weight")
    assert (tensor.kind, tensor.shape) == (kind, (ROWS, COLS))
    np.testing.assert_array_equal(dequantize(tensor), exact)
    np.testing.assert_array_equal(dequantize(tensor.rows([3, 1])), exact[[3, 1]])
    np.testing.assert_array_equal(dequantize(tensor.part(1, 2)), exact[ROWS // 2 :])
    np.testing.assert_array_equal(
        dequantize(tensor.stripe(1, 2, 4)), exact.reshape(-1, 4, COLS)[:, 1:3].reshape(-1, COLS)
    )
    assert {"a.b.weight", "lm_head.weight"} <= set(checkpoint.tensors)
    assert not any("absmax" in name or "packed" in name for name in checkpoint.tensors)
    assert checkpoint.extras == {"skipped_tensors": {}}
    method = checkpoint.metadata["quantization_config"]["quant_method"]
    assert facts_of(checkpoint).quantization == method.upper()


@pytest.mark.parametrize(("packing", "pack"), [(BNB, nf4), (COMPRESSED, nvfp4)])
def test_rows_that_are_no_multiple_of_32(tmp_path: Path, packing: Any, pack: Pack) -> None:
    arrays, exact = pack(values(80))
    tensor = opened(tmp_path, packing, arrays).tensor("a.b.weight")
    assert tensor.kind == "F32"
    np.testing.assert_array_equal(dequantize(tensor), exact)


def test_an_odd_number_of_numbers(tmp_path: Path) -> None:
    arrays, exact = nf4(values(80)[:3, :5])
    np.testing.assert_array_equal(dequantize(opened(tmp_path, BNB, arrays).tensor("a.b.weight")), exact)


def test_bytes_may_be_stored_as_floats(tmp_path: Path) -> None:
    """Trainers that share weights among processes ask for it; they are the same bytes."""
    arrays, exact = nf4(values())
    arrays["weight"] = arrays["weight"].reshape(-1).view(np.float16)[:, None]
    np.testing.assert_array_equal(dequantize(opened(tmp_path, BNB, arrays).tensor("a.b.weight")), exact)


def test_experts_that_are_one_tensor(tmp_path: Path) -> None:
    arrays, exact = nf4(values().reshape(3, 16, COLS))
    tensor = opened(tmp_path, BNB, arrays).tensor("a.b.weight")
    np.testing.assert_array_equal(dequantize(tensor.part(2, 3)), exact[2])


def test_modelopt_tells_its_method_in_a_file_of_its_own(tmp_path: Path) -> None:
    arrays, exact = nvfp4(values(), modelopt=True)
    write_json(tmp_path / "hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4"}})
    checkpoint = opened(tmp_path, None, arrays)
    np.testing.assert_array_equal(dequantize(checkpoint.tensor("a.b.weight")), exact)
    assert facts_of(checkpoint).quantization == "MODELOPT"
    for nothing in ({"quantization": {"quant_algo": None}}, {"quantization": []}, {}):
        write_json(tmp_path / "hf_quant_config.json", nothing)
        assert "a.b.weight" not in opened(tmp_path, None, arrays).tensors


def test_matrices_that_were_left_out_stay_as_they_are(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {**BNB, "llm_int8_skip_modules": ["lm_head"]}, nf4(values())[0])
    tensor = checkpoint.tensor("lm_head.weight")
    assert (tensor.kind, tensor.unpack) == ("F32", None)


def told(**change: Any) -> np.ndarray:
    state = {"quant_type": "nf4", "blocksize": 64, "shape": [ROWS, COLS], "nested_blocksize": 256}
    return np.frombuffer(json.dumps(state | {"nested_offset": 0.5} | change).encode(), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": None}, r"'a\.b\.weight' is missing"),
        ({"weight": np.zeros((5, 1), np.uint8)}, r"'a\.b\.weight' has 5 bytes; \(48, 192\) needs 4608"),
        ({"weight": np.zeros((0, 1), np.uint8)}, r"'a\.b\.weight' is empty"),
        ({"weight.absmax": None}, r"'a\.b\.weight\.absmax' is missing"),
        ({"weight.absmax": np.zeros(144, np.float32)}, r"absmax' is of F32 .* U8 and 1 dimensions is needed"),
        ({"weight.absmax": np.zeros(143, np.uint8)}, r"absmax' has 143 numbers where 144 are needed"),
        ({"weight.absmax": np.zeros((144, 1), np.uint8)}, r"absmax' is of U8 and shape \(144, 1\)"),
        ({"weight.nested_absmax": np.zeros(2, np.float32)}, r"nested_absmax' has 2 numbers where 1 are"),
        ({"weight.nested_absmax": np.zeros(0, np.float32)}, r"nested_absmax'|a dimension of 0"),
        ({"weight.nested_quant_map": None}, r"nested_quant_map' is missing"),
        (
            {"weight.nested_quant_map": np.zeros(16, np.float32)},
            r"nested_quant_map' has 16 numbers",
        ),
        ({"weight.quant_map": None}, r"'a\.b\.weight\.quant_map' is missing"),
        ({"weight.quant_map": np.zeros(16, np.float32)}, r"quant_map' has not the numbers of nf4"),
        ({"weight.quant_map": np.full(16, np.nan, np.float32)}, r"quant_map' has not the numbers of nf4"),
        ({STATE: np.zeros(5000, np.uint8)}, r"has 5000 bytes; a state of up to 4096 is read"),
        ({STATE: np.zeros(0, np.uint8)}, r"bitsandbytes__nf4' is empty"),
        ({STATE: np.full(8, 0xFF, np.uint8)}, r"bitsandbytes__nf4' is not valid UTF-8"),
        ({STATE: np.frombuffer(b"[1]", np.uint8)}, r"bitsandbytes__nf4' is not a JSON object"),
        ({STATE: told(quant_type="af4")}, r"'quant_type' 'af4'; nf4 and fp4 are read"),
        ({STATE: told(quant_type="fp4")}, r"'quant_type' 'fp4'"),
        ({STATE: told(blocksize=0)}, r"'blocksize' 0; a power of two from 32 to 4096"),
        ({STATE: told(blocksize=-64)}, r"'blocksize' -64"),
        ({STATE: told(blocksize=96)}, r"'blocksize' 96"),
        ({STATE: told(blocksize=1 << 62)}, r"'blocksize' 4611686018427387904"),
        ({STATE: told(blocksize=64.0)}, r"'blocksize' 64\.0"),
        ({STATE: told(blocksize=True)}, r"'blocksize' True"),
        ({STATE: told(nested_blocksize=None)}, r"'nested_blocksize' None"),
        ({STATE: told(nested_blocksize=1 << 40)}, r"'nested_blocksize' 1099511627776"),
        ({STATE: told(nested_offset="1")}, r"'nested_offset' '1'"),
        ({STATE: told(nested_offset=10**400)}, r"'nested_offset' 1000"),
        ({STATE: told(nested_offset=float("nan"))}, r"'nested_offset' nan"),
        ({STATE: told(nested_offset=1e300)}, r"'nested_offset' 1e\+300"),
        ({STATE: told(shape=None)}, r"'shape' None; two or three sizes"),
        ({STATE: told(shape=[ROWS])}, r"'shape' \[48\]"),
        ({STATE: told(shape=[ROWS, 0])}, r"'shape' \[48, 0\]"),
        ({STATE: told(shape=[-ROWS, -COLS])}, r"'shape' \[-48, -192\]"),
        ({STATE: told(shape=[1 << 39, 1 << 39])}, r"has 4608 bytes; .* needs 151115727451828646838272"),
        ({STATE: told(shape=[10**300, 1])}, r"'shape' \[1000"),
    ],
)
def test_states_and_tensors_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    arrays = {**nf4(values(), nested=True)[0], **change}
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, BNB, {name: array for name, array in arrays.items() if array is not None})


def test_damaged_magnitudes_are_told_by_nobody_and_break_nothing(tmp_path: Path) -> None:
    for index, kind in enumerate(("nf4", "fp4")):
        arrays, _ = nf4(values(), kind, nested=True)
        arrays["weight.nested_absmax"] = np.full(1, np.inf, np.float32)
        arrays["weight.nested_quant_map"] = np.zeros(256, np.float32)
        tensor = opened(tmp_path / str(index), BNB, arrays).tensor("a.b.weight")
        assert np.isnan(dequantize(tensor)).all()


def test_bytes_without_a_state_are_told_when_the_model_is_wanted(tmp_path: Path) -> None:
    arrays = {name: array for name, array in nf4(values())[0].items() if name != STATE}
    with pytest.raises(CheckpointError, match=r"'a\.b\.weight' of U8 is packed in a form that is not read"):
        describe(opened(tmp_path, BNB, arrays))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SCB": None}, r"'a\.b\.SCB' is missing"),
        ({"SCB": np.ones(47, np.float32)}, "'a.b' do not fit its 48 x 192"),
        ({"SCB": np.ones((48, 1), np.float32)}, r"'a\.b\.SCB' is of F32 and shape \(48, 1\)"),
        ({"SCB": np.ones(48, np.uint8)}, r"'a\.b\.SCB' is of U8"),
        ({"weight_format": np.full(1, 2, np.uint8)}, r"'a\.b\.weight_format' is not 0"),
        ({"weight": np.zeros((0, 192), np.int8)}, r"'a\.b\.weight' is of I8 and shape \(0, 192\)"),
    ],
)
def test_bytes_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    arrays = {**bitsandbytes_bytes(values())[0], **change}
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, BNB, {name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_scale": None}, r"'a\.b\.weight_scale' is missing"),
        ({"weight_scale": np.ones((48, 12), np.float32)}, r"'a\.b\.weight_scale' is of F32"),
        ({"weight_scale": np.ones((48, 6), np.uint8).view("V1")}, "does not fit 48 x 192"),
        ({"weight_scale": np.ones((48, 12), np.uint8)}, "a scale for each 32 is needed"),
        ({"weight_packed": np.ones((48, 95), np.uint8)}, "does not fit 48 x 190"),
        (
            {"weight_packed": np.ones((48, 0), np.uint8)},
            r"weight_packed' is of U8 and shape \(48, 0\)",
        ),
        ({"weight_packed": np.ones(48, np.uint8)}, r"'a\.b\.weight_packed' is of U8 and shape \(48,\)"),
        ({"weight_global_scale": None}, r"'a\.b\.weight_scale_2' is missing"),
        ({"weight_global_scale": np.zeros(1, np.float32)}, "weight_global_scale' is not one number above 0"),
        ({"weight_global_scale": np.full(1, np.nan, np.float32)}, "weight_global_scale' is not one number"),
        ({"weight_global_scale": np.ones(3, np.float32)}, "weight_global_scale' is not one number"),
        ({"weight_zero_point": np.ones((48, 12), np.uint8)}, "weight_zero_point' is not read"),
    ],
)
def test_floats_that_do_not_fit_their_scales(tmp_path: Path, change: Any, message: str) -> None:
    arrays = {**nvfp4(values())[0], **change}
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, COMPRESSED, {name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("packing", "more", "message"),
    [
        (
            {**COMPRESSED, "transform_config": {"config_groups": {"u": {}}}},
            {},
            "'transform_config' .* turned",
        ),
        (MODELOPT, {"pre_quant_scale": np.ones(COLS, np.float32)}, r"'a\.b\.pre_quant_scale' is not read"),
    ],
)
def test_what_activations_would_need_is_told_when_the_model_is_wanted(
    tmp_path: Path, packing: Any, more: dict[str, np.ndarray], message: str
) -> None:
    checkpoint = opened(tmp_path, packing, {**nvfp4(values())[0], **more})
    with pytest.raises(CheckpointError, match=message):
        describe(checkpoint)
