"""Blocks of IQ1, IQ2 and IQ3 to blocks of four bits, which lose nothing: grids are looked up, signs join.

Layouts are ggml's (`ggml-common.h`), judged by `gguf.quants`. In all of them 256 weights share an f16 factor.
IQ2 and IQ3 name groups of eight or four magnitudes of a grid and a sign for each, IQ1 groups of eight in
-1, 0, 1 that are all moved by an eighth. So what 16 or 32 weights that share a scale may be are at most 16
numbers, see `code_tables.py`. Eight codes are the bytes of one word here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_serving.checkpoints.grid_tables import grid_codes, shifted_codes

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Integers = NDArray[np.integer[Any]]
Blocks = NDArray[np.void]  # one structured element a block
# f16 factors [blocks], steps [blocks, 16 or 8] of 1, and codes, a byte each, as words [blocks, 32].
Parts = tuple[NDArray[np.float16], Integers, Words]

_HALF, _BYTE = "<f2", "u1"
_LAYOUTS = {
    "IQ1_S": np.dtype([("d", _HALF), ("low", _BYTE, (8, 4)), ("high", "<u2", 8)]),
    "IQ1_M": np.dtype([("low", _BYTE, 32), ("high", _BYTE, 16), ("scales", "<u2", 4)]),
    "IQ2_XXS": np.dtype([("d", _HALF), ("groups", [("low", _BYTE, 4), ("signs", "<u4")], 8)]),
    "IQ2_XS": np.dtype([("d", _HALF), ("qs", "<u2", 32), ("scales", _BYTE, 8)]),
    "IQ2_S": np.dtype(
        [("d", _HALF), ("low", _BYTE, (8, 4)), ("signs", _BYTE, 32), ("high", _BYTE, 8), ("scales", _BYTE, 8)]
    ),
    "IQ3_XXS": np.dtype([("d", _HALF), ("low", _BYTE, 64), ("signs", "<u4", 8)]),
    "IQ3_S": np.dtype(
        [("d", _HALF), ("low", _BYTE, (8, 8)), ("high", _BYTE, 8), ("signs", _BYTE, 32), ("scales", _BYTE, 4)]
    ),
}
# A byte's bits as the upper bits of eight codes; the same of seven, whose eighth makes their number even.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_SIGNS: Words = (_BITS << 3).view("<u8").reshape(-1)
_EVEN_SIGNS: Words = np.where(_BITS[:128].sum(axis=1) % 2, _SIGNS[128:], _SIGNS[:128])


def from_grids(kind: str, data: Bytes) -> Bytes:
    """uint8 [bytes] of blocks of `kind` to those of IQ2_CODED, or of IQ3_XXS_CODED or IQ3_S_CODED.

    Raises: CheckpointError if there are no grids.
    """
    blocks = data.view(_LAYOUTS[kind])
    factors, steps, codes = _UNPACK[kind](blocks)
    layout = np.dtype([("d", _HALF), ("steps", "i1", steps.shape[1]), ("qs", _BYTE, 128)])
    out = np.empty(len(blocks), layout)
    out["d"] = factors
    out["steps"] = steps
    out["qs"] = _nibbles(codes.reshape(-1, 4)).view(np.uint8).reshape(-1, 128)
    return out.view(np.uint8)


def _nibbles(codes: Words) -> Words:
    """Of groups [groups, 4] the first 16 codes in low nibbles, the others in high ones: [groups, 2]."""
    packed = np.empty((len(codes), 2), np.uint64)
    for i in range(2):  # numpy is slow where its inner loops are short
        packed[:, i] = codes[:, i] | codes[:, i + 2] << np.uint64(4)
    return packed


def _fields(packed: Integers, bits: int, count: int) -> Integers:
    """[blocks, words] to [blocks, words, count]: the lowest bits of each word first."""
    words, as_type = np.ascontiguousarray(packed), packed.dtype.type
    fields = np.empty((*words.shape, count), words.dtype)
    for i in range(count):
        fields[..., i] = words >> as_type(bits * i) & as_type((1 << bits) - 1)
    return fields


def _indices(low: Bytes, high: Integers) -> NDArray[np.uint16]:
    """Of the same shape: low bytes, and the bits above them."""
    indices: NDArray[np.uint16] = high.astype(np.uint16) << np.uint16(8)
    indices |= low
    return indices


def _odd(scales: Integers) -> Integers:
    """All of these formats count by halves: [blocks, …] to [blocks, steps]."""
    steps: Integers = 2 * scales.reshape(len(scales), -1) + 1
    return steps


def _iq1_s(blocks: Blocks) -> Parts:
    high = blocks["high"]
    is_lowered = (high >> 15 << 3)[:, :, None]
    codes = shifted_codes()[_indices(blocks["low"], _fields(high, 3, 4) | is_lowered)]
    return blocks["d"], np.repeat(_odd(high >> 12 & 7), 2, axis=1), codes


def _iq1_m(blocks: Blocks) -> Parts:
    high = _fields(blocks["high"], 4, 2).reshape(-1, 32)
    # The factor's nibbles are above the scales.
    nibbles = blocks["scales"] >> 12 << np.arange(0, 16, 4, dtype=np.uint16)
    factors = np.bitwise_or.reduce(nibbles, axis=1).view(np.float16)
    return factors, _odd(_fields(blocks["scales"], 3, 4)), shifted_codes()[_indices(blocks["low"], high)]


def _iq2_xxs(blocks: Blocks) -> Parts:
    signs = blocks["groups"]["signs"]
    codes = grid_codes("IQ2_XXS")[blocks["groups"]["low"]] | _EVEN_SIGNS[_fields(signs, 7, 4)]
    return blocks["d"], np.repeat(_odd(signs >> 28), 2, axis=1), codes


def _iq2_xs(blocks: Blocks) -> Parts:
    codes = grid_codes("IQ2_XS")[blocks["qs"] & 511] | _EVEN_SIGNS[blocks["qs"] >> 9]
    return blocks["d"], _odd(_fields(blocks["scales"], 4, 2)), codes


def _iq2_s(blocks: Blocks) -> Parts:
    codes = grid_codes("IQ2_S")[_indices(blocks["low"], _fields(blocks["high"], 2, 4))]
    codes |= _SIGNS[blocks["signs"]].reshape(codes.shape)
    return blocks["d"], _odd(_fields(blocks["scales"], 4, 2)), codes


def _iq3_xxs(blocks: Blocks) -> Parts:
    signs = blocks["signs"]
    codes: Words = grid_codes("IQ3_XXS")[blocks["low"]].view("<u8")
    codes |= _EVEN_SIGNS[_fields(signs, 7, 4)].reshape(codes.shape)
    return blocks["d"], _odd(signs >> 28), codes


def _iq3_s(blocks: Blocks) -> Parts:
    pairs = grid_codes("IQ3_S")[_indices(blocks["low"], _fields(blocks["high"], 1, 8))]
    codes = pairs.view("<u8").reshape(-1, 32) | _SIGNS[blocks["signs"]]
    return blocks["d"], 4 * _odd(_fields(blocks["scales"], 4, 2)), codes


_UNPACK: dict[str, Callable[[Blocks], Parts]] = {
    "IQ1_S": _iq1_s,
    "IQ1_M": _iq1_m,
    "IQ2_XXS": _iq2_xxs,
    "IQ2_XS": _iq2_xs,
    "IQ2_S": _iq2_s,
    "IQ3_XXS": _iq3_xxs,
    "IQ3_S": _iq3_s,
}
