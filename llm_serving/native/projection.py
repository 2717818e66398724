"""A matrix that activations are multiplied with, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llm_serving.checkpoints import Checkpoint, Tensor, dequantize


@dataclass(frozen=True, slots=True)
class Part:
    """Matrix `index` of `count` in one tensor; `transposed` where it is stored as inputs x outputs."""

    index: int
    count: int
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Stripe:
    """Rows `first` to `first + count` of each `period`: of one kind, where rows of several stand in turn.

    `transposed`: their values are columns of the matrix that is meant. `zeros`: so many rows and columns of
    zeros come behind all of these.
    """

    first: int
    count: int
    period: int
    transposed: bool = False
    zeros: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Projection:
    """target[:, offset : offset + rows] = scale * activations @ tensor.T + bias.

    `interleaved` > 0 is the head size of rows stored as rotary pairs (2i, 2i + 1), as GGUF's llama family
    stores queries and keys; they are packed as halves (i, i + d/2), the one form the kernels rotate, and so
    is their bias. With `rotated` only so many rows of a head are pairs, and those behind them stay.
    A gate and what it opens may stand so, too, row by row in turn: that is one head of all rows.
    `fine` keeps 12 bits where others keep 8: for what reaches the result with nothing to soften its rounding.
    """

    tensor: str
    target: str
    offset: int = 0
    bias: str | None = None
    interleaved: int = 0
    fine: bool = False
    # Of a tensor that holds several matrices; of a `Part` the bias, too, is that part of its own.
    part: Part | Stripe | None = None
    rotated: int = 0
    first: int = 0  # as in `Linear.apart`
    scale: float = 1.0  # multiplied into the matrix where it is packed


def tensor_of(checkpoint: Checkpoint, name: str, part: Part | Stripe | None) -> Tensor:
    """A tensor, or a part of it. Raises: CheckpointError if it is not there, or has no such part."""
    tensor = checkpoint.tensor(name)
    if isinstance(part, Stripe):
        stripe = tensor.stripe(part.first, part.count, part.period)
        if any(part.zeros[: len(stripe.shape)]):  # a bias has no columns
            shape = tuple(size + more for size, more in zip(stripe.shape, part.zeros, strict=True))
            stripe = replace(stripe, shape=shape, zeros=part.zeros)
        return _transposed(stripe) if part.transposed else stripe
    return tensor if part is None else tensor.part(part.index, part.count, part.transposed)


def matrix_of(checkpoint: Checkpoint, projection: Projection) -> Tensor:
    """The matrix as it is packed, but for the order of rows; f32 where it is multiplied by a number."""
    matrix = tensor_of(checkpoint, projection.tensor, projection.part)
    scale = np.float32(projection.scale)
    if scale == 1:
        return matrix

    def scaled() -> np.ndarray:
        return np.ascontiguousarray(dequantize(matrix) * scale, dtype=np.float32).reshape(-1).view(np.uint8)

    return Tensor(f"{matrix.name}*{float(scale):.9g}", "F32", matrix.shape, matrix.data, unpack=scaled)


def _transposed(matrix: Tensor) -> Tensor:
    """Its columns as rows, in f32: packed values stand in groups that go along a row."""
    values = np.ascontiguousarray(dequantize(matrix).T, dtype=np.float32)
    return Tensor(f"{matrix.name}^T", "F32", values.shape, values.reshape(-1).view(np.uint8))
