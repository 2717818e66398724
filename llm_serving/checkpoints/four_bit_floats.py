"""Matrices of E2M1, two numbers a byte: NVFP4, floats as scales for each 16; MXFP4, powers for each 32.

Sources: `compressors/nvfp4` and `mxfp4` of compressed-tensors 0.20, `NVFP4QTensor` of NVIDIA's modelopt 0.47.
"""

from __future__ import annotations

import numpy as np

from llm_serving.checkpoints.checkpoint import Tensor
from llm_serving.checkpoints.code_tables import E2M1
from llm_serving.checkpoints.float8 import E4M3
from llm_serving.checkpoints.mxfp4 import GROUP_BYTES, halves_apart, to_blocks
from llm_serving.checkpoints.packed_integers import BLOCK, unpack_nibbles
from llm_serving.checkpoints.stored_tensors import FLOATS, Bytes, Floats, Stored
from llm_serving.errors import CheckpointError

GROUP = 16  # numbers that share a scale in NVFP4
# What all scales of a matrix are multiplied with, or divided by.
_FACTOR, _DIVISOR = "weight_scale_2", "weight_global_scale"


def is_packed_floats(stored: Stored, name: str) -> bool:
    """Whether `packed_floats` reads this tensor."""
    base, _, end = name.rpartition(".")
    if stored.tensors[name].kind != "U8" or end not in ("weight", "weight_packed"):
        return False
    scale = stored.tensors.get(f"{base}.weight_scale")
    return end == "weight_packed" or (scale is not None and scale.kind in ("U8", "F8_E4M3"))


def packed_floats(stored: Stored, base: str, end: str) -> Tensor:
    """`end` [outputs, inputs / 2] of bytes, the first of two numbers in the low nibble, as `<base>.weight`.

    NVFP4: weight_scale E4M3 [outputs, inputs / 16], weight_scale_2 (modelopt) or weight_global_scale
    (compressed-tensors), one float. It is of kind E2M1_16, or F32 for inputs that are no multiple of 32.
    MXFP4: weight_scale bytes [outputs, inputs / 32].

    Raises: CheckpointError, naming the tensor, for what is missing or does not fit.
    """
    if f"{base}.weight_zero_point" in stored.tensors:
        raise CheckpointError(f"Tensor '{base}.weight_zero_point' is not read; these floats have none.")
    packed = stored.array(f"{base}.{end}", ("U8",), 2)
    outputs, inputs = packed.shape[0], 2 * packed.shape[1]
    scales = stored.array(f"{base}.weight_scale", ("U8", "F8_E4M3"), 2)
    is_nvfp4 = stored.tensors[f"{base}.weight_scale"].kind == "F8_E4M3"
    group = GROUP if is_nvfp4 else BLOCK
    if inputs % group or scales.shape != (outputs, inputs // group):
        raise CheckpointError(
            f"Tensor '{base}.weight_scale' of shape {scales.shape} does not fit {outputs} x {inputs} numbers "
            f"of '{base}.{end}': a scale for each {group} is needed."
        )
    name, shape, data = f"{base}.weight", (outputs, inputs), packed.reshape(-1)
    if not is_nvfp4:
        return Tensor(name, "MXFP4", shape, data, unpack=lambda: to_blocks(data, scales.reshape(-1)))
    factor = _factor(stored, base)
    if inputs % BLOCK:
        return Tensor(name, "F32", shape, data, unpack=lambda: _values(packed, scales, factor))
    return Tensor(name, "E2M1_16", shape, data, unpack=lambda: _blocks(data, scales, factor))


def _factor(stored: Stored, base: str) -> tuple[np.float32, np.float32]:
    """What scales are multiplied with, and then divided by: one of both is 1."""
    end = _DIVISOR if f"{base}.{_DIVISOR}" in stored.tensors else _FACTOR
    name = f"{base}.{end}"
    tensor = stored.tensors.get(name)
    values = stored.array(name, FLOATS, len(tensor.shape) if tensor is not None else 1).reshape(-1)
    value = np.float32(values[0])
    if len(values) != 1 or not np.isfinite(value) or value <= 0:
        raise CheckpointError(f"Tensor '{name}' is not one number above 0.")
    return (np.float32(1), value) if end == _DIVISOR else (value, np.float32(1))


def _scaled(scales: Bytes, factor: tuple[np.float32, np.float32]) -> Floats:
    with np.errstate(over="ignore"):  # of damaged numbers
        values: Floats = E4M3[scales] * factor[0]
        values /= factor[1]
    return values


def _blocks(packed: Bytes, scales: Bytes, factor: tuple[np.float32, np.float32]) -> Bytes:
    """As kind E2M1_16 has them."""
    pairs = _scaled(scales, factor).reshape(-1, 2).view(np.uint8)
    return np.concatenate([pairs, halves_apart(packed.reshape(-1, GROUP_BYTES))], axis=1).reshape(-1)


def _values(packed: Bytes, scales: Bytes, factor: tuple[np.float32, np.float32]) -> Bytes:
    """f32, as bytes."""
    values: Floats = E2M1[unpack_nibbles(packed)].reshape(-1, GROUP)
    values *= _scaled(scales, factor).reshape(-1, 1)
    return values.reshape(-1).view(np.uint8)
