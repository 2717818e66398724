"""Ternary matrices of directories: BitNet b1.58 as `transformers` packs it, four weights a byte.

Source: `pack_weights`, `BitLinear` and `AutoBitLinear` in `transformers/integrations/bitnet.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_serving.checkpoints.packed_integers import PackedIntegers, pack_nibbles
from llm_serving.checkpoints.stored_tensors import FLOATS, Bytes, Stored
from llm_serving.errors import CheckpointError

METHOD = "bitnet"
PER_BYTE = 4
_ZERO = 8  # the number that stands for a weight of 0 in four bits


def problem_of_bitnet(config: Mapping[str, Any]) -> str | None:
    """What is to be told of a `quantization_config` of this method that is not read; None where it is."""
    if config.get("use_rms_norm"):
        return "'use_rms_norm' of 'quantization_config' is not read: activations would have to be normed."
    if _is_auto(config) and config.get("quantization_mode", "offline") != "offline":
        return (
            "'quantization_mode' of 'quantization_config' is not 'offline'; weights that are packed are read."
        )
    return None


def is_ternary(stored: Stored, base: str, end: str) -> bool:
    """Whether `ternary_rows` reads this tensor, or tells what is wrong with it."""
    return stored.config.get("quant_method") == METHOD and (
        end == "weight" and f"{base}.weight_scale" in stored.tensors
    )


def ternary_rows(stored: Stored, base: str) -> PackedIntegers:
    """weight [outputs / 4, inputs] of bytes, weight_scale: what weights are divided by, or multiplied with.

    The lowest bits of all bytes are the first quarter of the rows, one more than their weights.

    Raises: CheckpointError, naming the tensor, for what does not fit.
    """
    packed = stored.array(f"{base}.weight", ("U8",), 2)
    name = f"{base}.weight_scale"
    told = stored.array(name, FLOATS, len(stored.tensors[name].shape)).astype(np.float32).reshape(-1)
    if len(told) != 1 or not np.isfinite(told[0]) or told[0] <= 0:
        raise CheckpointError(f"Tensor '{name}' is not one number above 0.")
    outputs = PER_BYTE * len(packed)
    scales = np.full((outputs, 1), told[0] if _is_auto(stored.config) else 1 / told[0], np.float32)
    zeros = np.full(scales.shape, _ZERO, np.float32)
    return PackedIntegers(outputs, packed.shape[1], 4, scales, zeros, lambda: _nibbles(packed))


def _is_auto(config: Mapping[str, Any]) -> bool:
    return bool(config.get("linear_class", "bitlinear") == "autobitlinear")


def _nibbles(packed: Bytes) -> Bytes:
    """uint8 [outputs, inputs / 2], the first of two numbers low."""
    quarters = [packed >> np.uint8(2 * i) & np.uint8(3) for i in range(PER_BYTE)]
    return pack_nibbles(np.concatenate(quarters) + np.uint8(_ZERO - 1))
