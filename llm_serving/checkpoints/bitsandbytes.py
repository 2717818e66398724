"""What bitsandbytes saves: NF4 and FP4 in blocks of neighbours, and signed bytes with a scale for each row.

Source: `QuantState.as_dict` and `Linear8bitLt` of bitsandbytes 0.50, which write and read these tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_serving.checkpoints.checkpoint import Tensor
from llm_serving.checkpoints.code_tables import NORMAL_FLOATS, SMALL_FLOATS
from llm_serving.checkpoints.json_files import parse_object
from llm_serving.checkpoints.mxfp4 import GROUP_BYTES, halves_apart
from llm_serving.checkpoints.packed_integers import BLOCK, PackedIntegers, unpack_nibbles
from llm_serving.checkpoints.stored_tensors import FLOATS, Bytes, Floats, Stored
from llm_serving.errors import CheckpointError

STATE = "bitsandbytes__"  # begins the last part of the name of what is told of a matrix
MAX_STATE_BYTES = 4096  # it takes some 200
MAX_BLOCK = 4096
MOST_OFFSET = 3e38
_TABLES = {"nf4": NORMAL_FLOATS, "fp4": SMALL_FLOATS}


@dataclass(frozen=True, slots=True)
class _State:
    """What `<name>.quant_state.bitsandbytes__nf4` says of a matrix, checked."""

    name: str  # of the matrix
    kind: str  # nf4 or fp4
    shape: tuple[int, ...]
    block: int  # neighbours, of all rows one behind the other, that share a largest magnitude
    nested_block: int  # of those magnitudes, that share one themselves; 0 if they are floats
    offset: float  # that all those then need

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def num_blocks(self) -> int:
        return -(-self.size // self.block)


def four_bits(stored: Stored, state_name: str) -> Tensor:
    """The matrix that a state is of: kind NF4, or F32 for FP4 and rows that are no multiple of 32.

    <name>: bytes [numbers / 2] of any kind, the first of two numbers high; <name>.quant_map [16].
    <name>.absmax [blocks]: f32, or bytes for numbers of nested_quant_map [256] times nested_absmax [groups].

    Raises: CheckpointError, naming the tensor, for what is missing or does not fit.
    """
    state = _read_state(stored, state_name)
    packed = stored.bytes_of(state.name)
    if len(packed) != -(-state.size // 2):
        raise CheckpointError(
            f"Tensor '{state.name}' has {len(packed)} bytes; {state.shape} needs {-(-state.size // 2)}."
        )
    told = _of_length(stored, f"{state.name}.quant_map", "F32", 16)
    if not np.allclose(told, _TABLES[state.kind], rtol=0, atol=1e-6):
        raise CheckpointError(f"Tensor '{state.name}.quant_map' has not the numbers of {state.kind}.")
    largest = _magnitudes(stored, state)
    fits_blocks = state.kind == "nf4" and state.shape[-1] % BLOCK == 0
    kind, unpack = ("NF4", _blocks) if fits_blocks else ("F32", _values)
    return Tensor(state.name, kind, state.shape, packed, unpack=lambda: unpack(packed, largest.read(), state))


def signed_rows(stored: Stored, base: str) -> PackedIntegers:
    """weight [outputs, inputs] of signed bytes, SCB [outputs]: what 127 is; weight_format: 0, row by row."""
    weight = stored.array(f"{base}.weight", ("I8",), 2)
    outputs, inputs = weight.shape
    largest = stored.array(f"{base}.SCB", FLOATS, 1)
    layout = f"{base}.weight_format"
    if layout in stored.tensors and stored.bytes_of(layout).any():
        raise CheckpointError(f"Tensor '{layout}' is not 0; matrices that lie row by row are read.")
    scales = largest.astype(np.float32)[:, None] / np.float32(127)
    zeros = np.full(scales.shape, 128, np.float32)
    return PackedIntegers(outputs, inputs, 8, scales, zeros, lambda: weight.view(np.uint8) ^ np.uint8(0x80))


def _read_state(stored: Stored, name: str) -> _State:
    where = f"Tensor '{name}'"
    data = stored.bytes_of(name)
    if len(data) > MAX_STATE_BYTES:
        raise CheckpointError(f"{where} has {len(data)} bytes; a state of up to {MAX_STATE_BYTES} is read.")
    told = parse_object(data.tobytes(), where)
    matrix, _, kind = name.partition(f".quant_state.{STATE}")
    if kind not in _TABLES or told.get("quant_type") != kind:
        raise CheckpointError(f"{where} has 'quant_type' {_short(told, 'quant_type')}; nf4 and fp4 are read.")
    shape = told.get("shape")
    sizes = shape if isinstance(shape, list) else []
    if len(sizes) not in (2, 3) or not all(type(size) is int and 0 < size < 1 << 40 for size in sizes):
        raise CheckpointError(f"{where} has 'shape' {_short(told, 'shape')}; two or three sizes are needed.")
    is_nested = f"{matrix}.nested_absmax" in stored.tensors
    offset = told.get("nested_offset", 0.0)
    if type(offset) is not float or not abs(offset) < MOST_OFFSET:
        raise CheckpointError(f"{where} has 'nested_offset' {_short(told, 'nested_offset')}; f32 is needed.")
    block = _block(told, "blocksize", where)
    nested = _block(told, "nested_blocksize", where) if is_nested else 0
    return _State(matrix, kind, tuple(sizes), block, nested, offset)


def _block(told: dict[str, Any], key: str, where: str) -> int:
    size = told.get(key)
    if type(size) is not int or not BLOCK <= size <= MAX_BLOCK or size & (size - 1):
        raise CheckpointError(
            f"{where} has {key!r} {_short(told, key)}; a power of two from {BLOCK} to {MAX_BLOCK} is needed."
        )
    return size


def _short(told: dict[str, Any], key: str) -> str:
    return repr(told.get(key))[:60]


@dataclass(frozen=True, slots=True)
class _Magnitudes:
    """The largest magnitude of each block: as it is, or what one of 256 numbers and a group's own give."""

    values: np.ndarray  # [blocks], f32, or bytes where there is a table
    table: Floats | None = None  # [256]
    of_groups: Floats | None = None  # [groups]
    group: int = 0
    offset: float = 0.0

    def read(self) -> Floats:
        """f32 [blocks]."""
        if self.table is None or self.of_groups is None:
            return np.ascontiguousarray(self.values)
        of_blocks = np.repeat(self.of_groups, self.group)[: len(self.values)]
        with np.errstate(invalid="ignore", over="ignore"):  # of damaged numbers
            largest: Floats = self.table[self.values] * of_blocks
            largest += np.float32(self.offset)
        return largest


def _magnitudes(stored: Stored, state: _State) -> _Magnitudes:
    name, count, group = f"{state.name}.absmax", state.num_blocks, state.nested_block
    if not group:
        return _Magnitudes(_of_length(stored, name, "F32", count))
    return _Magnitudes(
        _of_length(stored, name, "U8", count),
        _of_length(stored, f"{state.name}.nested_quant_map", "F32", 256),
        _of_length(stored, f"{state.name}.nested_absmax", "F32", -(-count // group)),
        group,
        state.offset,
    )


def _of_length(stored: Stored, name: str, kind: str, length: int) -> np.ndarray:
    array = stored.array(name, (kind,), 1)
    if len(array) != length:
        raise CheckpointError(f"Tensor '{name}' has {len(array)} numbers where {length} are needed.")
    return array


def _blocks(packed: Bytes, largest: Floats, state: _State) -> Bytes:
    """As kind NF4 has them; a block of theirs is one or several of these."""
    low_first = packed << np.uint8(4) | packed >> np.uint8(4)
    scales = np.repeat(largest, state.block // BLOCK)[: state.size // BLOCK]
    parts = [scales.view(np.uint8).reshape(-1, 4), halves_apart(low_first.reshape(-1, GROUP_BYTES))]
    return np.concatenate(parts, axis=1).reshape(-1)


def _values(packed: Bytes, largest: Floats, state: _State) -> Bytes:
    """f32, as bytes."""
    low_first = packed << np.uint8(4) | packed >> np.uint8(4)
    values: Floats = _TABLES[state.kind][unpack_nibbles(low_first[None])[0, : state.size]]
    whole = state.size // state.block * state.block
    with np.errstate(invalid="ignore"):  # of damaged numbers
        values[:whole].reshape(-1, state.block)[:] *= largest[: whole // state.block, None]
        values[whole:] *= largest[-1]
    return values.view(np.uint8)
