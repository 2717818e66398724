"""What the numbers of four bits stand for, where formats have tables of values. f32 [16] each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# IQ4_NL and IQ4_XS (ggml-common.h): steps that suit a normal distribution.
NORMAL_STEPS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
# MXFP4 and NVFP4: E2M1 (OCP MX 1.0).
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
# bitsandbytes: NF4 (QLoRA, arXiv:2305.14314, appendix E), and FP4 of two exponent bits and one of mantissa.
NORMAL_FLOATS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


def _signed(*magnitudes: int) -> NDArray[np.float32]:
    """These, and their negatives from 8 on."""
    return np.array([*magnitudes, *(-magnitude for magnitude in magnitudes)], np.float32)


# ggml's grids: what occurs in IQ1 (times 8: 1, 7, 9) and in IQ2 (8, 25, 43), then in IQ3_XXS and IQ3_S.
GRID_2 = _signed(1, 7, 8, 9, 25, 43, 0, 0)
GRID_3_XXS = _signed(4, 12, 20, 28, 36, 44, 52, 62)
GRID_3_S = _signed(1, 3, 5, 7, 9, 11, 13, 15)
_SMALL_FLOATS = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
SMALL_FLOATS = np.concatenate([_SMALL_FLOATS, -_SMALL_FLOATS])
