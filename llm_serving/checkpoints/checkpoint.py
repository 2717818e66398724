"""What every file format becomes: metadata, tensors as mapped bytes, a tokenizer's raw material."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from llm_serving.checkpoints.mapped_file import FileStamp
from llm_serving.checkpoints.mxfp4 import to_blocks
from llm_serving.checkpoints.small_kinds import HELD_AS, to_held
from llm_serving.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Tensor:
    """One weight as it stands in the file; nothing is copied or unpacked.

    With `scales`, `unpack`, `is_transposed`, `zeros` or several dimensions the data is not what `kind` and
    `shape` say before `as_rows`.
    """

    name: str
    kind: str  # one of KINDS
    shape: tuple[int, ...]  # numpy order: (rows = outputs, columns = inputs) for matrices
    data: np.ndarray  # uint8 [num_bytes], a read-only view of the mapped file
    scales: np.ndarray | None = None  # uint8: of MXFP4, exponents that lie apart from the values
    is_transposed: bool = False  # a matrix that the file has as inputs x outputs
    zeros: tuple[int, int] = (0, 0)  # rows and columns that the file has not: of a matrix, behind its own
    # Makes the data that `kind` and `shape` mean, uint8 [bytes], of a matrix that lies in several tensors.
    unpack: Callable[[], np.ndarray] | None = field(default=None, compare=False)

    def rows(self, indices: Sequence[int]) -> Tensor:
        """These rows of a matrix as a tensor. Raises: CheckpointError for one that is not there."""
        if len(self.shape) != 2 or not all(0 <= i < self.shape[0] for i in indices):
            raise CheckpointError(f"Tensor '{self.name}' of shape {self.shape} has no rows {list(indices)}.")
        data = self._unpacked().data.reshape(self.shape[0], -1)[list(indices)].reshape(-1)
        return Tensor(self.name, self.kind, (len(indices), self.shape[1]), data)

    def part(self, index: int, count: int, transposed: bool = False) -> Tensor:
        """Matrix `index` of `count` that lie one after the other in this tensor, of two or three dimensions.

        A vector is a matrix of one row.

        Raises: CheckpointError if there are not so many, or one of packed values is to be transposed.
        """
        whole = self.shape if len(self.shape) > 1 else (1, *self.shape)
        rows, cols = (0, 0, *whole)[-2:]
        if len(whole) == 2:
            rows //= count
        if whole not in ((count * rows, cols), (count, rows, cols)):
            raise CheckpointError(f"Tensor '{self.name}' of shape {self.shape} is not {count} matrices.")
        if transposed and self.kind not in ("F32", "F16", "BF16"):
            raise CheckpointError(f"Tensor '{self.name}' of {self.kind} cannot be transposed.")
        shape = (cols, rows) if transposed else (rows, cols)
        data = self._unpacked().data.reshape(count, -1)[index]
        scales = None if self.scales is None else self.scales.reshape(count, -1)[index]
        return Tensor(f"{self.name}#{index}", self.kind, shape, data, scales, transposed)

    def stripe(self, first: int, count: int, period: int) -> Tensor:
        """Rows `first` to `first + count` of each `period` of a matrix, or values of a vector.

        Raises: CheckpointError.
        """
        rows, *cols = self.shape if len(self.shape) == 2 or self._is_plain_vector() else (0,)
        if not rows or rows % period or not 0 <= first < first + count <= period:
            raise CheckpointError(
                f"Tensor '{self.name}' of shape {self.shape} has no rows that stand {period} by {period}."
            )
        periods = self._unpacked().data.reshape(rows // period, period, -1)[:, first : first + count]
        name = f"{self.name}#{first}-{first + count}/{period}"
        return Tensor(name, self.kind, (rows // period * count, *cols), periods)

    def _is_plain_vector(self) -> bool:
        """Whether its values are bytes of their own."""
        return len(self.shape) == 1 and self.data.size in (2 * self.shape[0], 4 * self.shape[0])

    def as_rows(self) -> Tensor:
        """The same with data as `kind` has it, row by row: itself, or a copy if the file has it otherwise.

        What is of a key of `HELD_AS` is a copy of the kind that holds it.

        Raises: CheckpointError if there are no grids.
        """
        if self.unpack is not None:
            return self._unpacked().as_rows()
        data = self.data
        if self.scales is not None:
            data = to_blocks(data, self.scales)
        elif self.is_transposed:
            rows, cols = self.shape
            values = data.view(f"u{data.size // (rows * cols)}").reshape(cols, rows)
            data = np.ascontiguousarray(values.T).reshape(-1).view(np.uint8)
        elif any(self.zeros):
            rows, cols = (size - more for size, more in zip(self.shape, self.zeros, strict=True))
            # Of a row in blocks the bytes are kept together: blocks of zero bytes are zeros in every kind.
            values = data.view(f"u{data.size // (rows * cols)}") if self.zeros[1] else data
            padded = np.pad(values.reshape(rows, -1), [(0, more) for more in self.zeros])
            data = padded.reshape(-1).view(np.uint8)
        elif data.ndim > 1:
            data = np.ascontiguousarray(data).reshape(-1)
        kind = HELD_AS.get(self.kind)
        if kind is not None:
            return Tensor(self.name, kind, self.shape, to_held(self.kind, data))
        return self if data is self.data else Tensor(self.name, self.kind, self.shape, data)

    def _unpacked(self) -> Tensor:
        return self if self.unpack is None else replace(self, data=self.unpack(), unpack=None)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk, opened. `format` tells whose keys and tensor names these are.

    gguf: keys such as `llama.block_count`, tensors such as `blk.0.attn_q.weight`. huggingface: those of
    `config.json` (`num_hidden_layers`), tensors as the model's own code names them; `path` is the directory.
    """

    path: str
    architecture: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    chat_template: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    format: Literal["gguf", "huggingface"] = "gguf"
    files: tuple[FileStamp, ...] = ()  # that the tensors are in, as they were before they were opened
    # What a GGUF model sees with, which is a file of its own: see `architectures/projector.py`.
    projector: Checkpoint | None = None

    def hyper(self, key: str, default: Any = None) -> Any:
        """`metadata["<architecture>.<key>"]`, or the default; keys of `config.json` have no such prefix."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def tensor(self, name: str) -> Tensor:
        """Raises: CheckpointError when it is not there."""
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(f"The model '{self.path}' has no tensor '{name}'.") from None
