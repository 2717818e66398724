"""A memory-mapped reader of safetensors files.

Format: https://github.com/huggingface/safetensors#format: the header's length (u64), the header (JSON), the
data. The file is not trusted: the header's length is compared with the file's before it is read, and every
tensor must lie in the data without gap or overlap, so what reading costs is bounded by the file's size.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_serving.checkpoints.checkpoint import Tensor
from llm_serving.checkpoints.json_files import parse_object
from llm_serving.checkpoints.mapped_file import FileStamp, map_file, stamp_files
from llm_serving.errors import CheckpointError

MAX_HEADER_BYTES = 1 << 25  # some 250 000 tensors
MAX_DIMENSIONS = 8
KINDS_READ = {"F32": 4, "F16": 2, "BF16": 2}  # bytes a value
RAW = ("U8", "I8", "I32", "I64", "F8_E4M3")  # what packed weights lie in
_SIZES = {**KINDS_READ, "F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
_SIZES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8}


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """`tensors` are the weights; `skipped` maps the names of all others (position ids, …) to their dtype.

    `raw` has those of the others that are of a kind in RAW: weights may be packed in them.
    """

    tensors: dict[str, Tensor]
    skipped: dict[str, str]
    raw: dict[str, Tensor] = field(default_factory=dict)
    files: tuple[FileStamp, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class _Info:
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: str | Path) -> SafetensorsFile:
    """Open one file. Tensors are views of the mapped file, which stays mapped while any of them lives.

    Their addresses need not be multiples of their values' size. Raises: CheckpointError, naming the file,
    the tensor and what is wrong.
    """
    files = stamp_files([path])
    mapped = map_file(path)
    if len(mapped) < 8:
        raise CheckpointError(f"{path}: the file has {len(mapped)} bytes; a safetensors file has at least 8.")
    (length,) = struct.unpack_from("<Q", mapped)
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: the header claims {length} bytes, over {MAX_HEADER_BYTES}; this is no safetensors file."
        )
    first = 8 + length
    if first > len(mapped):
        raise CheckpointError(
            f"{path}: the header claims {length} bytes, but the file ends after {len(mapped) - 8}; "
            "it is damaged or its download was cut short."
        )
    header = parse_object(mapped[8:first], f"{path}: the header")
    header.pop("__metadata__", None)
    infos = [_info(path, name, entry) for name, entry in header.items()]
    _check_places(path, infos, len(mapped) - first)
    data = np.frombuffer(mapped, np.uint8)
    views = {
        info.name: Tensor(info.name, info.dtype, info.shape, data[first + info.begin : first + info.end])
        for info in infos
        if info.dtype in KINDS_READ or info.dtype in RAW
    }
    tensors = {name: tensor for name, tensor in views.items() if tensor.kind not in RAW}
    raw = {name: tensor for name, tensor in views.items() if tensor.kind in RAW}
    skipped = {info.name: info.dtype for info in infos if info.dtype not in KINDS_READ}
    return SafetensorsFile(tensors, skipped, raw, files)


def _info(path: str | Path, name: str, entry: Any) -> _Info:
    what = f"{path}: tensor {name[:200]!r}"
    if not isinstance(entry, dict):
        raise CheckpointError(f"{what} is described by no JSON object.")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    place: Any = entry.get("data_offsets")
    if not isinstance(dtype, str):
        raise CheckpointError(f"{what} has no text 'dtype'.")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"{what} has a 'shape' that is not a list of up to {MAX_DIMENSIONS} sizes.")
    if not _are_sizes(place) or len(place) != 2 or place[0] > place[1]:
        raise CheckpointError(f"{what} has 'data_offsets' that are not a beginning and an end.")
    if dtype in KINDS_READ and 0 in shape:
        raise CheckpointError(f"{what} has a dimension of 0.")
    num_bytes = place[1] - place[0]
    if dtype in _SIZES and math.prod(shape) * _SIZES[dtype] != num_bytes:
        raise CheckpointError(
            f"{what} of type {dtype} and shape {tuple(shape)} needs "
            f"{math.prod(shape) * _SIZES[dtype]} bytes, but its place has {num_bytes}."
        )
    return _Info(name, dtype, tuple(shape), place[0], place[1])


def _are_sizes(value: Any) -> bool:
    # Bounded, because products of sizes of any length would take time and memory without end.
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _check_places(path: str | Path, infos: list[_Info], num_bytes: int) -> None:
    """Every byte of the data belongs to exactly one tensor. Raises: CheckpointError."""
    end_before, name_before = 0, ""
    for info in sorted(infos, key=lambda info: (info.begin, info.end)):
        if info.end > num_bytes:
            raise CheckpointError(
                f"{path}: tensor {info.name!r} ends at byte {info.end} of the data, which has {num_bytes}; "
                "the file is damaged or its download was cut short."
            )
        if info.begin < end_before:
            raise CheckpointError(f"{path}: the data of tensors {name_before!r} and {info.name!r} overlap.")
        if info.begin > end_before:
            raise CheckpointError(
                f"{path}: {info.begin - end_before} bytes before tensor {info.name!r} belong to no tensor."
            )
        end_before, name_before = info.end, info.name
    if end_before != num_bytes:
        raise CheckpointError(f"{path}: {num_bytes - end_before} bytes at the end belong to no tensor.")
