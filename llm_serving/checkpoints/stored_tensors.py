"""The tensors of a directory as arrays, for those who bring several of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_serving.checkpoints.checkpoint import Tensor
from llm_serving.errors import CheckpointError

Array = NDArray[Any]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

FLOATS = ("F32", "F16", "BF16")
_DTYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8", "I8": "i1", "U8": "u1", "F8_E4M3": "u1"}


@dataclass(frozen=True, slots=True)
class Stored:
    """The tensors of a directory by name, `quantization_config`, and the names that matrices were made of."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    used: set[str] = field(default_factory=set)

    def array(self, name: str, kinds: tuple[str, ...], dimensions: int) -> Array:
        """Its values; BF16 as f32. Raises: CheckpointError if there is none of these kinds and dimensions."""
        tensor = self.tensors.get(name)
        fits = tensor is not None and tensor.kind in kinds and len(tensor.shape) == dimensions
        if tensor is None or not fits or 0 in tensor.shape:
            found = "is missing" if tensor is None else f"is of {tensor.kind} and shape {tensor.shape}"
            raise CheckpointError(
                f"Tensor '{name}' {found}; one of {' or '.join(kinds)} and {dimensions} dimensions is needed."
            )
        self.used.add(name)
        if tensor.kind == "BF16":
            wide = tensor.data.view("<u2").astype(np.uint32) << 16
            return wide.view(np.float32).reshape(tensor.shape)
        return tensor.data.view(_DTYPES[tensor.kind]).reshape(tensor.shape)

    def scales(self, name: str) -> Floats:
        """f32 [rows, columns]: a number is a row of one, a vector a column."""
        tensor = self.tensors.get(name)
        values = self.array(name, FLOATS, len(tensor.shape) if tensor is not None else 2)
        return values.astype(np.float32).reshape(values.shape[0] if values.ndim else 1, -1)

    def bytes_of(self, name: str) -> Bytes:
        """Of a tensor of any kind. Raises: CheckpointError if it is missing or empty."""
        tensor = self.tensors.get(name)
        if tensor is None or not tensor.data.size:
            found = "is missing" if tensor is None else "is empty"
            raise CheckpointError(f"Tensor '{name}' {found}.")
        self.used.add(name)
        return tensor.data
