"""The formats of tensors that we read, and how many bytes a block of each takes.

Numbers and layouts of GGUF's are ggml's (`ggml-common.h`); the numeric ids are those of its specification.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """`block_bytes` bytes hold `block_size` consecutive values of one row."""

    name: str
    block_size: int
    block_bytes: int


GGUF_KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("F32", 1, 4),
        Kind("F16", 1, 2),
        Kind("BF16", 1, 2),
        Kind("Q2_K", 256, 84),
        Kind("Q3_K", 256, 110),
        Kind("Q4_0", 32, 18),
        Kind("Q4_1", 32, 20),
        Kind("Q5_0", 32, 22),
        Kind("Q5_1", 32, 24),
        Kind("Q8_0", 32, 34),
        Kind("Q4_K", 256, 144),
        Kind("Q5_K", 256, 176),
        Kind("Q6_K", 256, 210),
        Kind("IQ4_NL", 32, 18),
        Kind("IQ4_XS", 256, 136),
        Kind("MXFP4", 32, 17),
        Kind("IQ1_S", 256, 50),
        Kind("IQ1_M", 256, 56),
        Kind("IQ2_XXS", 256, 66),
        Kind("IQ2_XS", 256, 74),
        Kind("IQ2_S", 256, 82),
        Kind("IQ3_XXS", 256, 98),
        Kind("IQ3_S", 256, 110),
        Kind("TQ1_0", 256, 54),
        Kind("TQ2_0", 256, 66),
        Kind("Q1_0", 128, 18),
        Kind("Q2_0", 64, 18),
    )
}
# What directories have in several tensors, brought together, with scales that lose nothing: numbers of values
# in a table, in the order of Q4_0, behind f32 that all 32, or each 16, are multiplied with.
_OF_DIRECTORIES = (Kind("NF4", 32, 20), Kind("E2M1_16", 32, 24))
# What IQ1, IQ2 and IQ3 become before anything is computed, see `grid_blocks.py`: an f16 factor, a signed step
# for each 16 weights, or 32, and such numbers.
_CODED = (Kind("IQ2_CODED", 256, 146), Kind("IQ3_XXS_CODED", 256, 138), Kind("IQ3_S_CODED", 256, 138))
KINDS = GGUF_KINDS | {kind.name: kind for kind in (*_OF_DIRECTORIES, *_CODED)}

# Every id the format has given a meaning to, so that an error can name what the file holds.
GGML_TYPE_NAMES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
    42: "Q2_0",
}
