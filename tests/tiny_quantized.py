"""Packers of GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes and NVFP4, number by number as formats say."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
# QLoRA, appendix E, as bitsandbytes rounds it.
NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
     -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
     0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
     0.7229568362236023, 1.0], np.float32
)  # fmt: skip
_E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
E2M1 = np.array([*_E2M1, *(-value for value in _E2M1)], np.float32)
_FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
FP4 = np.concatenate([_FP4, -_FP4])


@dataclass(frozen=True)
class Quantized:
    """(quants - zeros) * scales; the group of an input by `group_of`."""

    quants: np.ndarray  # [outputs, inputs], unsigned
    scales: np.ndarray  # f16 [outputs, groups]
    zeros: np.ndarray  # [outputs, groups]
    group_of: np.ndarray  # [inputs]

    @property
    def values(self) -> np.ndarray:
        """f32 [outputs, inputs]."""
        distance = self.quants.astype(np.float32) - self.zeros[:, self.group_of]
        values: np.ndarray = (distance * self.scales.astype(np.float32)[:, self.group_of]).astype(np.float32)
        return values


def quantize(
    values: np.ndarray, bits: int = 4, group: int = 32, symmetric: bool = False, sorted_inputs: bool = False
) -> Quantized:
    """Rounded to the nearest; `sorted_inputs`: groups are of inputs that are not neighbours."""
    outputs, inputs = values.shape
    group_of = np.arange(inputs) // group
    if sorted_inputs:
        group_of = np.random.default_rng(1).permutation(group_of)
    groups = inputs // group
    most = (1 << bits) - 1
    scales = np.zeros((outputs, groups), np.float16)
    zeros = np.full((outputs, groups), 1 << bits - 1)
    for g in range(groups):
        part = values[:, group_of == g]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            scales[:, g] = np.maximum(-low, high) / (most // 2)
        else:
            scales[:, g] = (high - low) / most
            zeros[:, g] = np.clip(np.round(-low / np.maximum(scales[:, g].astype(np.float32), 1e-8)), 1, most)
    steps = np.maximum(scales.astype(np.float32)[:, group_of], 1e-8)
    quants = np.clip(np.round(values / steps) + zeros[:, group_of], 0, most).astype(np.int64)
    return Quantized(quants, scales, zeros, group_of)


def words(numbers: np.ndarray, bits: int, order: tuple[int, ...] | None = None) -> np.ndarray:
    """int32 [rows, columns * bits / 32]: neighbours in a row, the first in the lowest bits of a word."""
    count = 32 // bits
    packed = np.zeros((numbers.shape[0], numbers.shape[1] // count), np.uint32)
    for i in range(count):
        column = (order or range(count))[i]
        packed |= numbers[:, column::count].astype(np.uint32) << np.uint32(bits * i)
    return packed.view(np.int32)


def gptq(q: Quantized, bits: int = 4, version: int = 1) -> Arrays:
    return {
        "qweight": np.ascontiguousarray(words(q.quants, bits).T),
        "qzeros": words((q.zeros - (version == 1)).T, bits),
        "scales": np.ascontiguousarray(q.scales.T),
        "g_idx": q.group_of.astype(np.int32),
    }


def awq(q: Quantized) -> Arrays:
    return {
        "qweight": words(np.ascontiguousarray(q.quants.T), 4, AWQ_ORDER),
        "qzeros": words(np.ascontiguousarray(q.zeros.T), 4, AWQ_ORDER),
        "scales": np.ascontiguousarray(q.scales.T),
    }


def compressed(q: Quantized, bits: int = 4, has_zeros: bool = True) -> Arrays:
    arrays = {
        "weight_packed": words(q.quants, bits),
        "weight_scale": q.scales,
        "weight_shape": np.array(q.quants.shape, np.int64),
    }
    if has_zeros:
        arrays["weight_zero_point"] = np.ascontiguousarray(words(np.ascontiguousarray(q.zeros.T), bits).T)
    return arrays


def signed_bytes(q: Quantized) -> Arrays:
    return {"weight": (q.quants - 128).astype(np.int8), "weight_scale": q.scales.astype(np.float32)}


def float8(values: np.ndarray, block: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E4M3 as void bytes [rows, cols], f32 scales of blocks, and the values they stand for."""
    rows, cols = values.shape
    codes = np.array([_e4m3(code) for code in range(127)], np.float32)
    scales = np.zeros((-(-rows // block[0]), -(-cols // block[1])), np.float32)
    packed, exact = np.zeros((rows, cols), np.uint8), np.zeros((rows, cols), np.float32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = (slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1]))
            scales[i, j] = max(np.abs(values[at]).max() / 448, 1e-8)
            nearest = np.abs(np.abs(values[at] / scales[i, j])[..., None] - codes).argmin(-1)
            signs = np.signbit(values[at])
            packed[at] = nearest | signs << 7
            exact[at] = np.where(signs, -codes[nearest], codes[nearest]) * scales[i, j]
    return packed.view("V1"), scales, exact


def _e4m3(code: int) -> float:
    exponent, mantissa = code >> 3, code & 7
    return float(2.0 ** (exponent - 7) * (1 + mantissa / 8) if exponent else 2.0**-6 * mantissa / 8)


def nf4(
    values: np.ndarray, kind: str = "nf4", block: int = 64, nested: bool = False
) -> tuple[Arrays, np.ndarray]:
    """What bitsandbytes saves, by the last parts of the names, and the values it stands for."""
    table = {"nf4": NF4, "fp4": FP4}[kind]
    flat = np.concatenate([values.reshape(-1), np.zeros(-values.size % block, np.float32)]).reshape(-1, block)
    absmax = np.abs(flat).max(1)
    state = {"quant_type": kind, "blocksize": block, "dtype": "float32", "shape": list(values.shape)}
    arrays: Arrays = {"weight.quant_map": table}
    if nested:
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(absmax.mean())}
        offset = np.float32(state["nested_offset"])
        away = absmax - offset
        groups = -(-len(away) // 256)
        arrays["weight.nested_absmax"] = np.array(
            [np.abs(away[256 * i : 256 * i + 256]).max() for i in range(groups)], np.float32
        )
        arrays["weight.nested_quant_map"] = np.linspace(-1, 1, 256, dtype=np.float32)
        of_blocks = arrays["weight.nested_absmax"][np.arange(len(away)) // 256]
        numbers = np.round((away / np.maximum(of_blocks, 1e-12) + 1) * 127.5).astype(np.uint8)
        arrays["weight.absmax"] = numbers
        absmax = arrays["weight.nested_quant_map"][numbers] * of_blocks + offset
    else:
        arrays["weight.absmax"] = absmax
    codes = np.abs((flat / np.maximum(absmax, 1e-12)[:, None])[..., None] - table).argmin(-1).astype(np.uint8)
    exact = (table[codes] * absmax[:, None]).reshape(-1)[: values.size].reshape(values.shape)
    codes = codes.reshape(-1)[: values.size + values.size % 2]
    arrays["weight"] = (codes[0::2] << 4 | codes[1::2])[:, None]  # the first one high
    arrays[f"weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return arrays, exact


def bitsandbytes_bytes(values: np.ndarray) -> tuple[Arrays, np.ndarray]:
    largest = np.abs(values).max(1).astype(np.float32)
    quants = np.round(values / np.maximum(largest, 1e-12)[:, None] * 127).astype(np.int8)
    arrays = {"weight": quants, "SCB": largest, "weight_format": np.zeros((), np.uint8)}
    return arrays, quants * (largest[:, None] / np.float32(127)).astype(np.float16).astype(np.float32)


def nvfp4(values: np.ndarray, modelopt: bool = False) -> tuple[Arrays, np.ndarray]:
    """Of compressed-tensors, or of modelopt, whose factor is the other's divisor turned around."""
    rows, cols = values.shape
    floats = np.array([_e4m3(code) for code in range(127)], np.float32)
    divisor = np.float32(448 * 6 / np.abs(values).max())
    factor = np.float32(1) / divisor
    groups = values.reshape(rows, -1, 16)
    numbers = np.abs(np.abs(groups).max(-1, keepdims=True) / 6 * divisor - floats).argmin(-1).astype(np.uint8)
    scales = floats[numbers] * factor if modelopt else floats[numbers] / divisor
    nearest = (
        np.abs((groups / np.maximum(scales, 1e-12)[..., None])[..., None] - E2M1).argmin(-1).astype(np.uint8)
    )
    codes = nearest.reshape(rows, cols)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4  # the first one low
    exact = (E2M1[nearest] * scales[..., None]).reshape(rows, cols)
    stored = numbers.view("V1")
    if modelopt:
        return {
            "weight": packed,
            "weight_scale": stored,
            "weight_scale_2": factor,
            "input_scale": factor,
        }, exact
    return {
        "weight_packed": packed,
        "weight_scale": stored,
        "weight_global_scale": divisor.reshape(1),
        "input_global_scale": divisor.reshape(1),
    }, exact


def mxfp4(values: np.ndarray) -> tuple[Arrays, np.ndarray]:
    rows, cols = values.shape
    groups = values.reshape(rows, -1, 32)
    exponents = np.ceil(np.log2(np.maximum(np.abs(groups).max(-1), 1e-30) / 6)).astype(int)
    powers = np.ldexp(np.float32(1), exponents)[..., None]
    nearest = np.abs((groups / powers)[..., None] - E2M1).argmin(-1).astype(np.uint8)
    codes = nearest.reshape(rows, cols)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4
    arrays = {"weight_packed": packed, "weight_scale": (exponents + 127).astype(np.uint8)}
    return arrays, (E2M1[nearest] * powers).reshape(rows, cols).astype(np.float32)
