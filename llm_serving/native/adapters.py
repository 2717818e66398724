"""Adapters of a plan: which matrices they have for its projections, packed into the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_serving.checkpoints import LowRank, Tensor, dequantize, release
from llm_serving.errors import CheckpointError
from llm_serving.native.projection import Projection
from llm_serving.native.tables import halves_order


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """What an adapter does to the matrices of a model."""

    tensors: Mapping[str, LowRank]  # by the name of the projection's tensor
    in_pairs: (
        bool  # rows of queries and keys stand as rotary pairs where those of `Projection.interleaved` do
    )
    digest: bytes  # 16 bytes, which name all of this

    @property
    def num_bytes(self) -> int:
        """In memory."""
        return sum(4 * low.rank * (low.down.shape[1] + low.up.shape[0] + 8) for low in self.tensors.values())


class AdapterPacker:
    """Fills a core plan with the matrices of adapters, which go by their place in the list."""

    def __init__(self, core: Any, adapters: Sequence[Adapted]) -> None:
        self._core = core
        self._adapters = adapters

    def adapt(self, projections: Sequence[Projection], buffers: Mapping[str, int]) -> None:
        """Behind the `linear` of these projections: add what the adapters have for them.

        Raises: CheckpointError for values that are no numbers; ValueError for sizes that do not fit.
        """
        every = [
            [
                (*self._pack(adapter, adapter.tensors[p.tensor], p), buffers[p.target], p.offset)
                for p in projections
                if p.tensor in adapter.tensors
            ]
            for adapter in self._adapters
        ]
        if any(every):
            self._core.adapt(every)

    def _pack(self, adapter: Adapted, low: LowRank, p: Projection) -> tuple[int, int]:
        down, up = (
            _finite(low.down, dequantize(low.down)),
            _finite(low.up, dequantize(low.up) * np.float32(low.scale * p.scale)),
        )
        if adapter.in_pairs and p.interleaved:
            up = np.ascontiguousarray(up[halves_order(len(up), p.interleaved, p.rotated)])
        return self._core.low_rank(down), self._core.low_rank(up)


def _finite(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    release(tensor.data)
    if not np.isfinite(values).all():
        raise CheckpointError(f"Tensor '{tensor.name}' of the adapter has values that are no numbers.")
    return values
