"""Matrices that directories have in fewer bits, by their own names: GPTQ, AWQ, compressed-tensors and FP8.

Only what a method calls its tensors is told here; `packed_integers` has what becomes of them. Sources are the
methods' own packers (AutoGPTQ and GPTQModel, AutoAWQ, compressed-tensors), for FP8 the files of DeepSeek V3.
What bitsandbytes saves, floats of four bits, and ternary weights have files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_serving.checkpoints import packed_integers as packed
from llm_serving.checkpoints.bitnet import is_ternary, ternary_rows
from llm_serving.checkpoints.bitsandbytes import STATE, four_bits, signed_rows
from llm_serving.checkpoints.checkpoint import Tensor
from llm_serving.checkpoints.float8 import scaled
from llm_serving.checkpoints.four_bit_floats import is_packed_floats, packed_floats
from llm_serving.checkpoints.packed_integers import PackedIntegers
from llm_serving.checkpoints.stored_tensors import Floats, Stored
from llm_serving.errors import CheckpointError


def quantized_matrices(tensors: Mapping[str, Tensor], config: Any) -> tuple[dict[str, Tensor], set[str]]:
    """Of all tensors of a directory, the matrices that are packed in several, and the names of those.

    `config` is the `quantization_config` of config.json. A matrix is unpacked when `as_rows` is called.

    Raises: CheckpointError for tensors that are missing or do not fit each other.
    """
    stored = Stored(tensors, config if isinstance(config, Mapping) else {})
    found = {}
    for name, tensor in tensors.items():
        base, _, end = name.rpartition(".")
        if end.startswith(STATE):
            weight = four_bits(stored, name)
            found[weight.name] = weight
        elif end == "weight" and tensor.kind == "F8_E4M3":
            found[name] = _of_floats(stored, base)
        elif is_ternary(stored, base, end):
            found[name] = _of_integers(stored, base, tensor, ternary_rows)
        elif is_packed_floats(stored, name):
            found[f"{base}.weight"] = packed_floats(stored, base, end)
        elif (end, tensor.kind) in _INTEGERS:
            found[f"{base}.weight"] = _of_integers(stored, base, tensor, _INTEGERS[end, tensor.kind])
    return found, stored.used


def _of_integers(
    stored: Stored, base: str, main: Tensor, read: Callable[[Stored, str], PackedIntegers]
) -> Tensor:
    matrix = read(stored, base)
    groups = matrix.scales.shape[1]
    fits = matrix.scales.shape == matrix.zeros.shape == (matrix.outputs, groups)
    fits = fits and matrix.inputs > 0 and matrix.inputs % groups == 0
    of = matrix.group_of
    if not fits or (of is not None and (len(of) != matrix.inputs or of.min() < 0 or of.max() >= groups)):
        raise CheckpointError(
            f"Scales and zero points of '{base}' do not fit its {matrix.outputs} x {matrix.inputs} weights."
        )
    kind = matrix.kind
    shape = (matrix.outputs, matrix.inputs)
    # Read once more then: scales of all matrices in f32 would be a quarter of what four bits take.
    return Tensor(f"{base}.weight", kind, shape, main.data, unpack=lambda: read(stored, base).blocks(kind))


def _words(stored: Stored, base: str) -> PackedIntegers:
    """GPTQ's words hold inputs, AWQ's outputs."""
    packing = stored.config.get("packing_format") or stored.config.get("quant_method")
    return _awq(stored, base) if "awq" in str(packing) else _gptq(stored, base)


def _bits(stored: Stored) -> int:
    """Raises: CheckpointError for others than 4 and 8."""
    bits = stored.config.get("bits", stored.config.get("w_bit"))
    if bits not in (4, 8):
        raise CheckpointError(
            f"'bits' of 'quantization_config' is {bits!r}; weights of 4 and 8 bits are read."
        )
    return int(bits)


def _gptq(stored: Stored, base: str) -> PackedIntegers:
    """qweight [inputs / n, outputs], qzeros [groups, outputs / n], scales [groups, outputs], g_idx [inputs].

    A word holds n numbers.
    """
    bits = _bits(stored)
    words = stored.array(f"{base}.qweight", ("I32",), 2)
    inputs, outputs = len(words) * 32 // bits, words.shape[1]
    zeros = packed.from_output_words(stored.array(f"{base}.qzeros", ("I32",), 2), bits).astype(np.float32)
    if stored.config.get("checkpoint_format", "gptq") != "gptq_v2":
        zeros += 1  # the first version stores one less
    scales = np.ascontiguousarray(stored.scales(f"{base}.scales").T)
    group_of = _group_of(stored, f"{base}.g_idx", inputs, scales.shape[1])
    return PackedIntegers(
        outputs, inputs, bits, scales, zeros, lambda: packed.from_input_words(words), group_of
    )


def _awq(stored: Stored, base: str) -> PackedIntegers:
    """qweight [inputs, outputs / 8], qzeros [groups, outputs / 8], scales [groups, outputs]."""
    if _bits(stored) != 4:
        raise CheckpointError("AWQ weights of 4 bits are read, not of 8.")
    words = stored.array(f"{base}.qweight", ("I32",), 2)
    zeros = packed.from_awq_words(stored.array(f"{base}.qzeros", ("I32",), 2)).astype(np.float32)
    scales = np.ascontiguousarray(stored.scales(f"{base}.scales").T)
    inputs, outputs = len(words), words.shape[1] * 8
    return PackedIntegers(
        outputs, inputs, 4, scales, zeros, lambda: packed.pack_nibbles(packed.from_awq_words(words))
    )


def _compressed(stored: Stored, base: str) -> PackedIntegers:
    """weight_packed [outputs, inputs / n], weight_scale [outputs, groups].

    weight_zero_point [outputs / n, groups], weight_shape, weight_g_idx [inputs].
    """
    words = stored.array(f"{base}.weight_packed", ("I32",), 2)
    shape = stored.array(f"{base}.weight_shape", ("I64", "I32"), 1)
    inputs = int(shape[1]) if len(shape) == 2 else 0
    bits = next((bits for bits in (4, 8) if 0 < words.shape[1] * 32 == bits * inputs), None)
    if bits is None:
        raise CheckpointError(f"'{base}.weight_packed' has no weights of 4 or 8 bits, which are read.")
    scales = stored.scales(f"{base}.weight_scale")
    zeros = np.full(scales.shape, 1 << bits - 1, np.float32)
    if f"{base}.weight_zero_point" in stored.tensors:
        of_outputs = packed.from_input_words(stored.array(f"{base}.weight_zero_point", ("I32",), 2))
        all_zeros = of_outputs if bits == 8 else packed.unpack_nibbles(of_outputs)
        zeros = all_zeros.T[: len(words)].astype(np.float32)
    group_of = _group_of(stored, f"{base}.weight_g_idx", inputs, scales.shape[1])
    return PackedIntegers(len(words), inputs, bits, scales, zeros, lambda: words.view(np.uint8), group_of)


def _bytes(stored: Stored, base: str) -> PackedIntegers:
    """weight [outputs, inputs] of signed bytes, weight_scale a number, [outputs, 1] or [outputs, groups].

    bitsandbytes has SCB [outputs] in its place.
    """
    if stored.config.get("quant_method") == "bitsandbytes":
        return signed_rows(stored, base)
    weight = stored.array(f"{base}.weight", ("I8",), 2)
    outputs, inputs = weight.shape
    scales = _for_each(outputs, stored.scales(f"{base}.weight_scale"))
    zeros = np.full(scales.shape, 128, np.float32)
    zero_point = stored.tensors.get(f"{base}.weight_zero_point")
    if zero_point is not None:
        own = stored.array(zero_point.name, ("I8",), len(zero_point.shape)).astype(np.float32)
        zeros = _for_each(outputs, own.reshape(own.shape[0] if own.ndim else 1, -1)) + 128
    return PackedIntegers(outputs, inputs, 8, scales, zeros, lambda: weight.view(np.uint8) ^ np.uint8(0x80))


def _for_each(outputs: int, rows: Floats) -> Floats:
    """One row for all is one for each output."""
    return np.broadcast_to(rows, (outputs, rows.shape[1])) if len(rows) == 1 else rows


def _group_of(stored: Stored, name: str, inputs: int, groups: int) -> NDArray[np.int32] | None:
    """The group of each input; None where they follow each other, as all do that were not sorted."""
    if name not in stored.tensors:
        return None
    of = stored.array(name, ("I32",), 1)
    in_turn = len(of) == inputs and np.array_equal(of, np.arange(inputs) * groups // inputs)
    return None if in_turn else of


def _of_floats(stored: Stored, base: str) -> Tensor:
    """weight [outputs, inputs] of E4M3; weight_scale_inv or weight_scale, a number for each block of both."""
    name = f"{base}.weight"
    weight = stored.array(name, ("F8_E4M3",), 2)
    factor = f"{base}.weight_scale_inv"
    scales = stored.scales(factor if factor in stored.tensors else f"{base}.weight_scale")
    sides = _block_sides(stored.config.get("weight_block_size"), weight.shape, scales.shape)
    needed = tuple(-(-size // side) for size, side in zip(weight.shape, sides, strict=True))
    if scales.shape != needed:
        raise CheckpointError(f"Tensor '{name}' needs {needed} scales, but there are {scales.shape}.")
    data = stored.tensors[name].data
    return Tensor(
        name, "F32", weight.shape, data, unpack=lambda: scaled(weight, scales, (sides[0], sides[1]))
    )


def _block_sides(told: Any, shape: tuple[int, ...], scales: tuple[int, ...]) -> list[int]:
    """Outputs and inputs of a block: as told, or by how many scales there are. Raises: CheckpointError."""
    if told is None:
        return [-(-size // count) for size, count in zip(shape, scales, strict=True)]
    if isinstance(told, list) and len(told) == 2 and all(type(side) is int and side > 0 for side in told):
        return told
    raise CheckpointError(f"'weight_block_size' is {str(told)[:60]}; two positive integers are needed.")


_INTEGERS: dict[tuple[str, str], Callable[[Stored, str], PackedIntegers]] = {
    ("qweight", "I32"): _words,
    ("weight_packed", "I32"): _compressed,
    ("weight", "I8"): _bytes,
}
