"""Packers of GPTQ, AWQ, compressed-tensors and FP8, number by number as their formats say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


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
