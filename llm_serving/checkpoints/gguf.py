"""A memory-mapped reader of GGUF files, versions 2 and 3, little-endian.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file is not trusted: every count,
length and offset is compared with the bytes that are left before anything is allocated for it, so what
reading costs is bounded by the size of the file.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_serving.checkpoints.checkpoint import Checkpoint, Tensor
from llm_serving.checkpoints.kinds import GGML_TYPE_NAMES, GGUF_KINDS
from llm_serving.checkpoints.mapped_file import FileStamp, map_file, stamp_files
from llm_serving.errors import CheckpointError

MAGIC = b"GGUF"
MAX_DIMENSIONS = 4
MAX_ARRAY_DEPTH = 4
MAX_OBJECTS = 1 << 24  # strings or inner arrays in one array: each costs far more than its bytes in the file
MAX_STRING_BYTES = 1 << 26
MAX_ALIGNMENT = 1 << 20

_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SMALLEST_STRING, _SMALLEST_ARRAY, _SMALLEST_ENTRY, _SMALLEST_TENSOR_INFO = 8, 12, 13, 32


def read_gguf(path: str | Path) -> Checkpoint:
    """Open one GGUF file. Tensors are views of the mapped file, which stays mapped while any of them lives.

    Raises: CheckpointError, naming the file, the place and what is wrong.
    """
    files = stamp_files([path])
    metadata, tensors = read_gguf_file(path)
    return to_checkpoint(path, metadata, tensors, files)


def to_checkpoint(
    path: str | Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], files: tuple[FileStamp, ...]
) -> Checkpoint:
    """Check the few keys every model must have. Raises: CheckpointError."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise CheckpointError(f"{path}: the metadata has no text 'general.architecture'; this is no model.")
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{path}: 'tokenizer.chat_template' is not a text.")
    return Checkpoint(str(path), architecture, metadata, tensors, template, files=files)


def read_gguf_file(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (metadata, tensors) of one file, which may be a part of a split model.

    Numbers become int, float or bool; arrays of numbers numpy arrays of the file's own type; arrays of
    strings `list[str]`; arrays of arrays lists. Raises: CheckpointError.
    """
    header = _Header(path, map_file(path))
    num_tensors, num_entries = header.preamble()
    metadata: dict[str, Any] = {}
    for _ in range(num_entries):
        start = header.offset
        key = header.string("a metadata key")
        if key in metadata:
            raise header.error(f"the metadata key {key!r} stands there twice", start)
        metadata[key] = header.value(header.scalar(_U32, f"the type of {key!r}"), f"metadata {key!r}")
    return metadata, _read_tensors(header, num_tensors, _alignment(header, metadata))


class _Header:
    """A cursor over the mapped file that never leaves it."""

    def __init__(self, path: str | Path, mapped: mmap.mmap) -> None:
        self.path = path
        self.mapped = mapped
        self.size = len(mapped)
        self.offset = 0

    def error(self, problem: str, offset: int | None = None) -> CheckpointError:
        where = self.offset if offset is None else offset
        return CheckpointError(f"{self.path}: at byte {where}: {problem}.")

    def require(self, num_bytes: int, what: str) -> None:
        left = self.size - self.offset
        if num_bytes > left:
            raise self.error(
                f"{what} needs {num_bytes} bytes, but the file ends after {left}; "
                "it is damaged or its download was cut short"
            )

    def preamble(self) -> tuple[int, int]:
        """Return (number of tensors, number of metadata entries)."""
        self.require(24, "the GGUF preamble")
        magic, version, num_tensors, num_entries = struct.unpack_from("<4sIQQ", self.mapped)
        if magic != MAGIC:
            raise self.error(f"this is not a GGUF file: it begins with {magic!r} instead of {MAGIC!r}")
        if version not in (2, 3):
            kind = "big-endian, which is not read" if version & 0xFFFF == 0 else f"version {version}"
            raise self.error(f"the GGUF file is {kind}; versions 2 and 3, little-endian, are", 4)
        self.offset = 24
        self.require(num_entries * _SMALLEST_ENTRY, f"a table of {num_entries} metadata entries")
        self.require(num_tensors * _SMALLEST_TENSOR_INFO, f"a table of {num_tensors} tensors")
        return num_tensors, num_entries

    def scalar(self, form: struct.Struct, what: str) -> Any:
        self.require(form.size, what)
        (number,) = form.unpack_from(self.mapped, self.offset)
        self.offset += form.size
        return number

    def string(self, what: str) -> str:
        return self.strings(1, what)[0]

    def strings(self, count: int, what: str) -> list[str]:
        # The hot loop of opening a model: vocabularies have hundreds of thousands of entries.
        mapped, size, offset = self.mapped, self.size, self.offset
        read_length = _U64.unpack_from
        out: list[str] = []
        try:
            for _ in range(count):
                self.offset = offset
                start = offset + 8
                offset = start + read_length(mapped, offset)[0]
                if offset > size or offset - start > MAX_STRING_BYTES:
                    raise self.error(f"a string of {what} claims {offset - start} bytes")
                out.append(mapped[start:offset].decode())
        except struct.error:
            self.require(8, f"a string of {what}")
            raise
        except UnicodeDecodeError:
            raise self.error(f"a string of {what} is not valid UTF-8") from None
        self.offset = offset
        return out

    def value(self, type_id: int, what: str, depth: int = 0) -> Any:
        if type_id == _BOOL:
            byte = self.scalar(_SCALARS[_BOOL], what)
            if byte > 1:
                raise self.error(f"{what} is a bool of value {byte}", self.offset - 1)
            return bool(byte)
        if type_id in _SCALARS:
            return self.scalar(_SCALARS[type_id], what)
        if type_id == _STRING:
            return self.string(what)
        if type_id == _ARRAY:
            return self.array(what, depth)
        raise self.error(f"{what} has the unknown type {type_id}", self.offset - 4)

    def array(self, what: str, depth: int) -> Any:
        if depth >= MAX_ARRAY_DEPTH:
            raise self.error(f"{what} nests arrays more than {MAX_ARRAY_DEPTH} deep")
        type_id = self.scalar(_U32, f"the element type of {what}")
        count = self.scalar(_U64, f"the length of {what}")
        if type_id in _SCALARS:
            return self.numbers(type_id, count, what)
        if type_id not in (_STRING, _ARRAY):
            raise self.error(f"{what} has elements of the unknown type {type_id}", self.offset - 12)
        if count > MAX_OBJECTS:
            raise self.error(f"{what} claims {count} elements; more than {MAX_OBJECTS} are not read")
        smallest = _SMALLEST_STRING if type_id == _STRING else _SMALLEST_ARRAY
        self.require(count * smallest, f"{what} with {count} elements")
        if type_id == _STRING:
            return self.strings(count, what)
        return [self.array(what, depth + 1) for _ in range(count)]

    def numbers(self, type_id: int, count: int, what: str) -> np.ndarray:
        dtype = np.dtype(_SCALARS[type_id].format)
        self.require(count * dtype.itemsize, f"{what} with {count} elements")
        # A copy, because arrays in the header are not aligned.
        numbers: np.ndarray = np.frombuffer(self.mapped, dtype, count, self.offset).copy()
        if type_id == _BOOL:
            if np.any(numbers > 1):
                raise self.error(f"{what} holds a bool that is neither 0 nor 1")
            numbers = numbers.view(np.bool_)
        self.offset += count * dtype.itemsize
        return numbers


def _alignment(header: _Header, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    is_number = isinstance(alignment, int) and not isinstance(alignment, bool)
    if not is_number or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise header.error(
            f"'general.alignment' is {str(alignment)[:40]}; it must be a power of two up to {MAX_ALIGNMENT}"
        )
    return int(alignment)


def _read_tensors(header: _Header, count: int, alignment: int) -> dict[str, Tensor]:
    header.require(count * _SMALLEST_TENSOR_INFO, f"a table of {count} tensors")
    infos: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for _ in range(count):
        start = header.offset
        name = header.string("a tensor name")
        if name in infos:
            raise header.error(f"the tensor {name!r} stands there twice", start)
        infos[name] = _read_info(header, f"tensor {name!r}", alignment)
    first = -(-header.offset // alignment) * alignment
    end_before, name_before = 0, ""
    for name, (_, _, offset, num_bytes) in sorted(infos.items(), key=lambda item: item[1][2]):
        if first + offset + num_bytes > header.size:
            raise header.error(
                f"tensor {name!r} takes {num_bytes} bytes from byte {first + offset}, but the file ends at "
                f"{header.size}; it is damaged or its download was cut short"
            )
        # Without this a small file could describe any amount of weights.
        if offset < end_before:
            raise header.error(f"the data of the tensors {name_before!r} and {name!r} overlap")
        end_before, name_before = offset + num_bytes, name
    data = np.frombuffer(header.mapped, np.uint8)
    return {
        name: Tensor(name, kind, shape, data[first + offset : first + offset + num_bytes])
        for name, (kind, shape, offset, num_bytes) in infos.items()
    }


def _read_info(header: _Header, what: str, alignment: int) -> tuple[str, tuple[int, ...], int, int]:
    """Return (kind, shape in numpy order, offset in the data section, number of bytes)."""
    num_dims = header.scalar(_U32, f"the number of dimensions of {what}")
    if not 1 <= num_dims <= MAX_DIMENSIONS:
        raise header.error(f"{what} has {num_dims} dimensions; 1 to {MAX_DIMENSIONS} are possible")
    dims = [header.scalar(_U64, f"a dimension of {what}") for _ in range(num_dims)]
    type_id = header.scalar(_U32, f"the type of {what}")
    offset = header.scalar(_U64, f"the offset of {what}")
    name = GGML_TYPE_NAMES.get(type_id)
    kind = GGUF_KINDS.get(name or "")
    if kind is None:
        known = ", ".join(GGUF_KINDS)
        raise header.error(f"{what} is of type {name or f'number {type_id}'}; the types read are {known}")
    if 0 in dims:
        raise header.error(f"{what} has a dimension of 0")
    if dims[0] % kind.block_size:
        raise header.error(f"{what} has {dims[0]} columns; {kind.name} needs a multiple of {kind.block_size}")
    if offset % alignment:
        raise header.error(f"{what} has offset {offset}, which is no multiple of {alignment}")
    num_bytes = math.prod(dims) // kind.block_size * kind.block_bytes
    return kind.name, tuple(reversed(dims)), offset, num_bytes
