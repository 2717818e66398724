"""Integers of few bits, a scale for each group of a row, as ggml's blocks of 32 weights.

Blocks have scales and minima in F16. Scales of GPTQ and AWQ are F16 already; a minimum is the product of a
scale and a zero point of four bits, which F16 rounds by at most a 128th of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_serving.checkpoints.mxfp4 import halves_apart

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Words = NDArray[np.int32]

BLOCK = 32
# AutoAWQ: the column, of eight, that is in each of a word's eight nibbles, the lowest first.
_AWQ_COLUMNS = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True, slots=True)
class PackedIntegers:
    """A matrix of (quants - zeros) * scales, group by group of the inputs."""

    outputs: int
    inputs: int
    bits: int  # 4 or 8
    scales: Floats  # [outputs, groups]
    zeros: Floats  # [outputs, groups]
    # uint8 [outputs, inputs / 2], two neighbours a byte, the first one low; [outputs, inputs] of 8 bits.
    read_quants: Callable[[], Bytes]
    group_of: Words | None = None  # [inputs], where groups are not neighbours of one length

    @property
    def kind(self) -> str:
        """The one of `KINDS` that holds it: F32 where no blocks of 32 weights do."""
        if self.group_of is not None or self.inputs // self.scales.shape[1] % BLOCK:
            return "F32"
        if (self.zeros == 1 << self.bits - 1).all():
            return "Q4_0" if self.bits == 4 else "Q8_0"
        return "Q4_1" if self.bits == 4 else "F32"

    def blocks(self, kind: str) -> Bytes:
        """uint8 [bytes], as `kind` has them, row by row."""
        quants = self.read_quants()
        if kind == "F32":
            return self._values(quants).reshape(-1).view(np.uint8)
        parts = [self._halves(self.scales)]
        if kind == "Q4_1":
            parts.append(self._halves(-self.zeros * self.scales))
        if self.bits == 8:
            parts.append(quants.reshape(-1, BLOCK) ^ np.uint8(0x80))  # less 128, as signed bytes
        else:
            parts.append(halves_apart(quants.reshape(-1, BLOCK // 2)))
        return np.concatenate(parts, axis=1).reshape(-1)

    def _values(self, quants: Bytes) -> Floats:
        if self.bits == 4:
            quants = unpack_nibbles(quants)
        groups = self.scales.shape[1]
        of = np.arange(self.inputs) * groups // self.inputs if self.group_of is None else self.group_of
        values: Floats = np.subtract(quants, self.zeros[:, of], dtype=np.float32)
        values *= self.scales[:, of]
        return values

    def _halves(self, of_groups: Floats) -> Bytes:
        """A number for each group, as the F16 of each block; uint8 [blocks, 2]."""
        halves = of_groups.astype("<f2")
        return (
            np.repeat(halves, self.inputs // halves.shape[1] // BLOCK, axis=1).reshape(-1, 1).view(np.uint8)
        )


def unpack_nibbles(packed: Bytes) -> Bytes:
    """uint8 [rows, bytes] to [rows, 2 * bytes], the low nibble of a byte first."""
    values = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
    values[:, 0::2] = packed & 0x0F
    values[:, 1::2] = packed >> 4
    return values


def pack_nibbles(values: Bytes) -> Bytes:
    """The inverse of `unpack_nibbles`."""
    packed: Bytes = values[:, 1::2] << np.uint8(4)
    packed |= values[:, 0::2]
    return packed


def from_input_words(words: Words) -> Bytes:
    """GPTQ's [inputs / n, outputs], each word n inputs of one output, to bytes [outputs, …] of neighbours."""
    inputs, outputs = words.shape
    packed: Bytes = _bytes(words).reshape(inputs, outputs, 4).transpose(1, 0, 2).reshape(outputs, -1)
    return packed


def from_output_words(words: Words, bits: int) -> Bytes:
    """[rows, outputs / n], each word n outputs of one row, to uint8 [outputs, rows]."""
    values: Bytes = _bytes(words) if bits == 8 else unpack_nibbles(_bytes(words))
    transposed: Bytes = values.T
    return transposed


def from_awq_words(words: Words) -> Bytes:
    """The same where the outputs of a word stand in AWQ's order."""
    values = unpack_nibbles(_bytes(words)).reshape(len(words), -1, 8)
    transposed: Bytes = values[:, :, np.argsort(_AWQ_COLUMNS)].reshape(len(words), -1).T
    return transposed


def _bytes(words: Words) -> Bytes:
    raw: Bytes = words.view(np.uint8)
    return raw
