"""Tensors of vision transformers in the shapes that the engine takes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from llm_serving.checkpoints import Checkpoint, Tensor
from llm_serving.errors import CheckpointError

GROUP = 32  # columns of a packed matrix come in groups of so many
_RAW = ("F32", "F16", "BF16")  # kinds whose columns zeros may be put behind


def padded(count: int) -> int:
    """Rows or columns, with those of zeros behind them."""
    return count + -count % GROUP


class Padded:
    """Tensors with zeros behind their rows or columns, up to groups of 32: those add nothing anywhere."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.tensors = dict(checkpoint.tensors)
        self._checkpoint = checkpoint

    def as_matrix(self, name: str) -> int:
        """A convolution whose steps are as long as it is wide, as a matrix over patches; its columns."""
        tensor = self._tensor(name)
        if len(tensor.shape) not in (4, 5):
            raise CheckpointError(f"Tensor '{name}' of shape {tensor.shape} is no convolution.")
        rows, *sizes = tensor.shape
        cols = math.prod(sizes)
        self.tensors[name] = replace(tensor, shape=(rows, cols))
        return self.columns(name, cols)

    def rows(self, name: str, count: int) -> int:
        return self._pad(name, count, 0)

    def columns(self, name: str, count: int) -> int:
        return self._pad(name, count, 1)

    def _pad(self, name: str, count: int, axis: int) -> int:
        missing = -count % GROUP
        if missing:
            tensor = self._tensor(name)
            if tensor.shape[axis : axis + 1] != (count,):
                raise CheckpointError(
                    f"Tensor '{tensor.name}' of shape {tensor.shape} does not fit a size of {count}."
                )
            if axis and tensor.kind not in _RAW:
                raise CheckpointError(
                    f"Tensor '{tensor.name}' of {tensor.kind} has {count} columns; so many, which are no "
                    f"multiple of {GROUP}, are read in {', '.join(_RAW)}."
                )
            self.tensors[name] = _longer(tensor, axis, missing)
        return padded(count)

    def _tensor(self, name: str) -> Tensor:
        return self.tensors.get(name) or self._checkpoint.tensor(name)


def _longer(tensor: Tensor, axis: int, missing: int) -> Tensor:
    """With zeros behind; of a matrix they are made when it is packed, and no copy is held until then."""
    shape = tuple(size + missing * (i == axis) for i, size in enumerate(tensor.shape))
    if len(shape) == 2:
        return replace(tensor, shape=shape, zeros=(missing * (axis == 0), missing * (axis == 1)))
    bytes_each = tensor.data.size // tensor.shape[0]
    return replace(tensor, shape=shape, data=np.pad(tensor.data, (0, missing * bytes_each)))
