"""A model whose directory has packed weights computes what the numbers that they stand for compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_encoders import write_json, write_safetensors
from tiny_latent import write_latent_directory, write_tiny_latent
from tiny_models import SMALLEST_VOCAB, write_tiny_phi3, write_tiny_qwen2, write_tiny_qwen3_moe
from tiny_quantized import (
    awq,
    bitsandbytes_bytes,
    compressed,
    float8,
    gptq,
    mxfp4,
    nf4,
    nvfp4,
    quantize,
    signed_bytes,
)

from llm_serving.backends.native_memory import _weight_bytes
from llm_serving.checkpoints import dequantize, open_checkpoint
from llm_serving.checkpoints.json_files import read_object
from llm_serving.engine.protocol import EngineOptions

IDS = [int(i) for i in np.random.default_rng(3).integers(0, SMALLEST_VOCAB, 40)]
GPTQ = {"quant_method": "gptq", "bits": 4}


def packed_gptq(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    q = quantize(values, symmetric=True)
    return gptq(q), q.values


def packed_sorted(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    q = quantize(values, sorted_inputs=True)
    return gptq(q), q.values


def packed_awq(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    q = quantize(values)
    return awq(q), q.values


def packed_compressed(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    q = quantize(values)
    return compressed(q), q.values


def packed_bytes(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    q = quantize(values, bits=8, symmetric=True, group=values.shape[1])
    return signed_bytes(q), q.values


def packed_float8(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    codes, scales, exact = float8(values, (32, 32))
    return {"weight": codes, "weight_scale_inv": scales}, exact


def packed_nested(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return nf4(values, nested=True)


def packed_fp4(values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return nf4(values, "fp4")


BNB = {"quant_method": "bitsandbytes"}
METHODS: dict[str, tuple[dict[str, Any], Any]] = {
    "gptq": (GPTQ, packed_gptq),
    "gptq, sorted": (GPTQ, packed_sorted),
    "awq": ({"quant_method": "awq", "bits": 4}, packed_awq),
    "compressed": ({"quant_method": "compressed-tensors"}, packed_compressed),
    "bytes": ({"quant_method": "compressed-tensors"}, packed_bytes),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [32, 32]}, packed_float8),
    "nf4": (BNB, packed_nested),
    "fp4": (BNB, packed_fp4),
    "bitsandbytes' bytes": (BNB, bitsandbytes_bytes),
    "nvfp4": ({"quant_method": "compressed-tensors"}, nvfp4),
    "mxfp4": ({"quant_method": "compressed-tensors"}, mxfp4),
}


def write_pair(directory: Path, plain: Path, method: str) -> tuple[Path, Path]:
    """The model of `plain` twice: packed, and with the numbers that are packed as f32."""
    packing, pack = METHODS[method]
    packed, exact = {}, {}
    for name, tensor in open_checkpoint(plain).tensors.items():
        values = dequantize(tensor)
        base = name.removesuffix(".weight")
        if not name.endswith("proj.weight"):
            packed[name] = exact[name] = values
            continue
        arrays, exact[name] = pack(values)
        packed |= {f"{base}.{end}": array for end, array in arrays.items()}
    write_safetensors(plain / "model.safetensors", exact)
    config = read_object(plain / "config.json")
    write_json(directory / "packed" / "config.json", {**config, "quantization_config": packing})
    write_safetensors(directory / "packed" / "model.safetensors", packed)
    return directory / "packed", plain


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("write", [write_tiny_qwen2, write_tiny_phi3, write_tiny_qwen3_moe])
def test_packed_weights_compute_what_they_stand_for(
    tmp_path: Path, make_driver, write: Any, method: str
) -> None:
    gguf = write(tmp_path / "m.gguf", kind="F32")
    packed, plain = write_pair(tmp_path, write_directory(tmp_path / "plain", gguf), method)
    ours, expected = (
        make_driver(open_checkpoint(path), quantization="f32").logits(IDS) for path in (packed, plain)
    )
    np.testing.assert_allclose(ours, expected, atol=2e-3 * np.ptp(expected))


def test_latent_attention_in_fp8(tmp_path: Path, make_driver) -> None:
    """As DeepSeek V3 was published: matrices of keys and values are parts and columns of what is packed."""
    gguf = write_tiny_latent(tmp_path / "m.gguf", is_split=False)
    packed, plain = write_pair(tmp_path, write_latent_directory(tmp_path / "plain", gguf), "fp8")
    ours, expected = (
        make_driver(open_checkpoint(path), quantization="f32").logits(IDS) for path in (packed, plain)
    )
    np.testing.assert_array_equal(ours, expected)


# Kind, and bits a weight in memory.
FOUR_BITS = {
    "gptq": ("Q4_0", 4.5),
    "awq": ("Q4_1", 5),
    "compressed": ("Q4_1", 5),
    "nf4": ("NF4", 4.5),
    "nvfp4": ("E2M1_16", 5),
    "mxfp4": ("MXFP4", 4.25),
}


@pytest.mark.parametrize("method", FOUR_BITS)
def test_four_bits_stay_four_bits(tmp_path: Path, make_driver, method: str) -> None:
    """In memory, and for the plan of memory; and the answer stays near that of the exact numbers."""
    gguf = write_tiny_qwen2(tmp_path / "m.gguf", kind="F32")
    packed, plain = write_pair(tmp_path, write_directory(tmp_path / "plain", gguf), method)
    checkpoint = open_checkpoint(packed)
    matrices = [tensor for name, tensor in checkpoint.tensors.items() if name.endswith("proj.weight")]
    others = [tensor for name, tensor in checkpoint.tensors.items() if not name.endswith("proj.weight")]
    kind, bits = FOUR_BITS[method]
    assert {tensor.kind for tensor in matrices} == {kind}
    planned = _weight_bytes(checkpoint, EngineOptions())
    own = sum(tensor.shape[0] * tensor.shape[1] for tensor in matrices) * bits / 8
    assert planned == own + sum(tensor.data.nbytes for tensor in others)
    ours = make_driver(checkpoint).logits(IDS)
    expected = make_driver(open_checkpoint(plain), quantization="f32").logits(IDS)
    np.testing.assert_allclose(ours, expected, atol=0.05 * np.ptp(expected))
