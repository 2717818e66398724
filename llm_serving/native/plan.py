"""`ModelPlan` + checkpoint → the C++ plan with its weights packed."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from llm_serving.checkpoints import Checkpoint, dequantize
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.core import load_core


class PlanBuilder:
    """Packs each tensor once and names what C++ numbers.

    Raises: CheckpointError when a tensor is missing or does not fit the plan.
    """

    def __init__(
        self, plan: ops.ModelPlan, checkpoint: Checkpoint, core_plan: Any, weight_format: str
    ) -> None:
        self.checkpoint = checkpoint
        self.plan = plan
        self.core = core_plan
        self.weight_format = weight_format
        self._matrices: dict[tuple[str, int], int] = {}
        self._vectors: dict[str, int] = {}
        self._buffers = {name: core_plan.buffer(width) for name, width in plan.buffers.items()}

    def build(self) -> int:
        """Add every operation; return the number of the logits buffer."""
        for operation in self.plan.operations:
            self._add(operation)
        return cast(int, list(self._buffers.values())[-1])

    def _add(self, operation: ops.Operation) -> None:
        core, buffers = self.core, self._buffers
        query_heads = self.plan.query_heads
        match operation:
            case ops.Embed(tensor, target):
                core.embed(self._matrix(tensor), buffers[target])
            case ops.AddPositions(tensor, target, segments, skip):
                core.add_positions(self._positions(tensor, segments, skip, target), buffers[target])
            case ops.Quantize(source, weight, epsilon, bias, keep):
                width = self.plan.buffers[source]
                core.quantize(
                    buffers[source], self._optional(weight, width), self._optional(bias, width), epsilon, keep
                )
            case ops.Gelu(source):
                core.gelu(buffers[source])
            case ops.GatedSilu(source, cols):
                core.gated_silu(buffers[source], cols)
            case ops.Linear(projections, accumulate):
                core.linear([self._projection(p) for p in projections], accumulate)
            case ops.RopeStore(source, layer):
                core.rope_store(buffers[source], layer, query_heads)
            case ops.Attention(source, target, layer, scale):
                core.attention(buffers[source], buffers[target], layer, query_heads, scale)
            case ops.EncoderAttention(source, target, heads, scale):
                core.encoder_attention(buffers[source], buffers[target], heads, scale)
            case ops.SelectRows(source, target):
                core.select_rows(buffers[source], buffers[target])

    def _projection(self, p: ops.Projection) -> tuple[int, int, int, int]:
        rows = self._tensor(p.tensor).shape[0]
        if p.offset + rows > self.plan.buffers[p.target]:
            raise CheckpointError(
                f"Tensor '{p.tensor}' has {rows} rows, more than the model's header allows."
            )
        bias = self._optional(p.bias, rows)
        return self._matrix(p.tensor, p.interleaved), bias, self._buffers[p.target], p.offset

    def _tensor(self, name: str) -> Any:
        try:
            return self.checkpoint.tensors[name]
        except KeyError:
            raise CheckpointError(
                f"The model file '{self.checkpoint.path}' has no tensor '{name}'."
            ) from None

    def _matrix(self, name: str, interleaved: int = 0) -> int:
        key = (name, interleaved)
        if key not in self._matrices:
            tensor = self._tensor(name)
            if len(tensor.shape) != 2 or tensor.shape[1] % 32:
                raise CheckpointError(
                    f"Tensor '{name}' has shape {tensor.shape}; the engine needs two dimensions, "
                    "the second a multiple of 32."
                )
            rows, cols = tensor.shape
            permutation = halves_order(rows, interleaved) if interleaved else None
            self._matrices[key] = self.core.pack(
                tensor.kind, tensor.data, rows, cols, self.weight_format, permutation
            )
        return self._matrices[key]

    def _optional(self, name: str | None, size: int) -> int:
        return -1 if name is None else self._vector(name, size)

    def _positions(self, tensor: str, segments: str | None, skip: int, target: str) -> int:
        table = dequantize(self._tensor(tensor))[skip:]
        if segments is not None:
            table = table + dequantize(self._tensor(segments))[:1]
        if table.ndim != 2 or table.shape[1] != self.plan.buffers[target]:
            raise CheckpointError(f"Tensor '{tensor}' does not fit a width of {self.plan.buffers[target]}.")
        number: int = self.core.vector(np.ascontiguousarray(table, dtype=np.float32).reshape(-1))
        return number

    def _vector(self, name: str, size: int) -> int:
        if name not in self._vectors:
            values = dequantize(self._tensor(name)).reshape(-1)
            if values.size != size:
                raise CheckpointError(f"Tensor '{name}' has {values.size} values where {size} are needed.")
            self._vectors[name] = self.core.vector(np.ascontiguousarray(values, dtype=np.float32))
        return self._vectors[name]


def halves_order(rows: int, head_dim: int) -> np.ndarray:
    """int32 [rows]: for each row of the halves form, the row of the interleaved form that belongs there."""
    within = np.concatenate([np.arange(0, head_dim, 2), np.arange(1, head_dim, 2)])
    order: np.ndarray = (np.arange(0, rows, head_dim)[:, None] + within[None, :]).reshape(-1).astype(np.int32)
    return order


def rope_table(rope: ops.Rope, checkpoint: Checkpoint, positions: int) -> np.ndarray:
    """float32 [positions, rotated]: cosines, then sines; computed in float64."""
    frequencies = rope.theta ** (-np.arange(0, rope.rotated, 2, dtype=np.float64) / rope.rotated)
    if rope.factors_tensor is not None:
        factors = dequantize(checkpoint.tensors[rope.factors_tensor]).reshape(-1).astype(np.float64)
        if factors.size != frequencies.size or not np.all(factors > 0):
            raise CheckpointError(
                f"Tensor '{rope.factors_tensor}' does not fit {rope.rotated} rotated dimensions."
            )
        frequencies = frequencies / factors
    angles = np.arange(positions, dtype=np.float64)[:, None] / rope.linear_factor * frequencies[None, :]
    table: np.ndarray = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return table


def core_plan(*, threads: int, isa: str, max_tokens: int, max_context: int) -> Any:
    """A new, empty C++ plan. Raises: ValueError for an instruction set this CPU does not have."""
    return load_core().Plan(threads, isa, max_tokens, max_context)
