"""Blocks of at most two bits, whose weights are -1, 0 or 1 times a factor, to blocks of Q4_0.

Layouts are ggml's (`ggml-common.h`). Those of two bits may say 2, too. Eight weights are the bytes of a word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Blocks = NDArray[np.void]  # one structured element a block

_HALF, _BYTE = "<f2", "u1"
_LAYOUTS = {
    "TQ1_0": np.dtype([("fives", _BYTE, 32), ("more", _BYTE, 16), ("fours", _BYTE, 4), ("d", _HALF)]),
    "TQ2_0": np.dtype([("qs", "<u8", (2, 4)), ("d", _HALF)]),
    "Q1_0": np.dtype([("d", _HALF), ("qs", _BYTE, 16)]),
    "Q2_0": np.dtype([("d", _HALF), ("qs", _BYTE, 16)]),
}
_SEVENS = np.uint64(0x0707070707070707)  # Q4_0's codes of -1
_THREES = np.uint64(0x0303030303030303)


def to_q4_0(kind: str, data: Bytes) -> Bytes:
    """uint8 [bytes] of blocks of `kind` to those of Q4_0: the same values, the factor again for each 32."""
    blocks = data.view(_LAYOUTS[kind])
    codes = _digits(kind, blocks) + _SEVENS
    groups = codes.reshape(-1, 4)
    out = np.empty(len(groups), np.dtype([("d", _HALF), ("qs", "<u8", 2)]))
    out["d"] = np.repeat(blocks["d"], len(groups) // len(blocks))
    for i in range(2):  # numpy is slow where its inner loops are short
        out["qs"][:, i] = groups[:, i] | groups[:, i + 2] << np.uint64(4)
    return out.view(np.uint8)


def _digits(kind: str, blocks: Blocks) -> Words:
    """One more than each weight, in order, a byte each."""
    digits: Words
    if kind == "TQ1_0":
        return _fractions(blocks).view(np.uint64)
    if kind == "TQ2_0":
        words = np.ascontiguousarray(blocks["qs"])
        digits = np.empty((len(blocks), 2, 4, 4), np.uint64)
        for i in range(4):
            digits[:, :, i] = words >> np.uint64(2 * i) & _THREES
        return digits
    digits = _OF_BYTES[8 if kind == "Q1_0" else 4][blocks["qs"]].view("<u8")
    return digits


def _fractions(blocks: Blocks) -> Bytes:
    """A byte is a fraction of five digits, or four, to the base of 3: three times it has the next above."""
    digits, at = np.empty((len(blocks), 256), np.uint8), 0
    for packed, count in ((blocks["fives"], 5), (blocks["more"], 5), (blocks["fours"], 4)):
        fractions = np.ascontiguousarray(packed)
        for _ in range(count):
            # A third of 256 is 85.3.
            digits[:, at : at + packed.shape[1]] = (fractions > 85).view(np.uint8) + (fractions > 170)
            at += packed.shape[1]
            fractions = fractions * np.uint8(3)
    return digits


_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
# By the number of weights in a byte: those of each byte as one word, of eight bytes or of four.
_OF_BYTES = {
    8: (2 * _BITS).view("<u8").reshape(-1),
    4: np.ascontiguousarray(_BITS[:, 0::2] | _BITS[:, 1::2] << 1).view("<u4").reshape(-1),
}
