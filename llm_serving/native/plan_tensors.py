"""What operations of a plan refer to by number: buffers, packed matrices, vectors and tables of constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from math import prod
from typing import Any, cast

import numpy as np

from llm_serving.checkpoints import Checkpoint, Tensor, dequantize
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.adapters import Adapted, AdapterPacker
from llm_serving.native.packed_cache import PackedCache
from llm_serving.native.packed_weights import PackedWeights
from llm_serving.native.projection import matrix_of, tensor_of
from llm_serving.native.shared_keys import shared_keys
from llm_serving.native.tables import (
    bucket_bias,
    halves_order,
    linear_bias,
    position_table,
    rope_table,
    window_bias,
)


class PlanTensors:
    """Each is made once, and known to C++ by a number from then on.

    Raises: CheckpointError when a tensor is missing or does not fit the plan.
    """

    def __init__(
        self,
        plan: ops.ModelPlan | ops.EncoderPlan,
        checkpoint: Checkpoint,
        core_plan: Any,
        weight_format: str,
        context: int,
        packed: PackedCache | None = None,
        adapters: Sequence[Adapted] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.plan = plan
        self.core = core_plan
        self.weight_format = weight_format
        self.context = context
        self._text_tokens = plan.context if isinstance(plan, ops.EncoderPlan) else context
        self._ropes: dict[ops.Rope, int] = {}
        self._biases: dict[ops.WindowBias | ops.BucketBias | ops.LinearBias, int] = {}
        self._matrices: dict[tuple[str, int, int, bool, ops.Part | ops.Stripe | None, float], int] = {}
        self._vectors: dict[tuple[str, float], int] = {}
        self._constants = blake2b()
        self._weights = PackedWeights(core_plan, checkpoint, weight_format, packed)
        self._adapters = AdapterPacker(core_plan, adapters)
        self.query_heads = plan.query_heads if isinstance(plan, ops.ModelPlan) else 0
        self._norm_offset = plan.norm_offset
        self._outermost = _outermost(plan)
        self._shared = shared_keys(plan, checkpoint) if isinstance(plan, ops.ModelPlan) else {}
        self._has_spans = isinstance(plan, ops.ModelPlan) and plan.given_span > 0
        first, *others = plan.buffers.items()  # an encoder's output is the first buffer, logits are the last
        self._widths = dict([first, *plan.slots.items(), *others])
        self._buffers = {
            name: core_plan.buffer(width, name in plan.slots) for name, width in self._widths.items()
        }

    def packed_bytes(self, projection: ops.Projection) -> int:
        """Length of a projection's packed matrix; packs it if `build` has not."""
        return cast(int, self.core.matrix_bytes(self._matrix(projection)))

    def _projections(
        self, projections: tuple[ops.Projection, ...], apart: bool = False
    ) -> list[tuple[int, int, int, int]]:
        """Those of one operation fill the rows of their target: what nobody wrote would be another step's.

        If they are `apart`, others write between them.
        """
        for p, behind in zip(projections, (*projections[1:], None), strict=True):
            goes_on = behind is not None and behind.target == p.target
            wanted = (behind.offset if goes_on and behind else self._widths[p.target]) - p.offset
            rows = tensor_of(self.checkpoint, p.tensor, p.part).shape[0]
            if rows > wanted if apart else rows != wanted:
                raise CheckpointError(
                    f"Tensor '{p.tensor}' has {rows} rows where the model's header means {wanted}."
                )
        return [self._projection(p) for p in projections]

    def _projection(self, p: ops.Projection) -> tuple[int, int, int, int]:
        rows = tensor_of(self.checkpoint, p.tensor, p.part).shape[0]
        order = halves_order(rows, p.interleaved, p.rotated) if p.interleaved else None
        bias = -1
        if p.bias is not None:
            part = replace(p.part, transposed=False) if isinstance(p.part, ops.Part) else p.part
            bias = self._vector(tensor_of(self.checkpoint, p.bias, part), rows, order=order)
        return self._matrix(p), bias, self._buffers[p.target], p.offset

    def _matrix(self, p: ops.Projection) -> int:
        key = (p.tensor, p.interleaved, p.rotated, p.fine, p.part, p.scale)
        if key not in self._matrices:
            tensor = matrix_of(self.checkpoint, p)
            if len(tensor.shape) != 2 or tensor.shape[1] % 32:
                raise CheckpointError(
                    f"Tensor '{p.tensor}' has shape {tensor.shape}; the engine needs two dimensions, "
                    "the second a multiple of 32."
                )
            weight_format = self._format(p)
            self._matrices[key] = self._weights.matrix(tensor, p.interleaved, weight_format, p.rotated)
        return self._matrices[key]

    def _format(self, p: ops.Projection) -> str:
        if p.fine and self.weight_format != "f32":
            return "q12"
        # What logits are made of is where rounding shows, and little of the work.
        return (
            "careful" if self.weight_format == "auto" and p.tensor in self._outermost else self.weight_format
        )

    def _optional(
        self,
        name: str | None,
        size: int,
        add: float = 0.0,
        times: float = 1.0,
        order: np.ndarray | None = None,
    ) -> int:
        return -1 if name is None else self._vector(self.checkpoint.tensor(name), size, add, times, order)

    def _factor(self, scale: str | float | None, width: int) -> int:
        """What a copy is multiplied by: a number, or a tensor of one number or `width` numbers."""
        if isinstance(scale, float):
            return self._constant(np.array([scale], np.float32))
        is_one = scale is not None and prod(self.checkpoint.tensor(scale).shape) == 1
        return self._optional(scale, 1 if is_one else width)

    def _positions(self, p: ops.AddPositions) -> int:
        segments = None if p.segments is None else dequantize(self.checkpoint.tensor(p.segments))
        width = self._widths[p.target]
        rows = (
            np.zeros((p.context, width), np.float32)
            if p.tensor is None
            else dequantize(self.checkpoint.tensor(p.tensor))
        )
        if rows.ndim != 2 or rows.shape[1] != width or (segments is not None and segments.shape[1] != width):
            raise CheckpointError(f"Tensor '{p.tensor or p.segments}' does not fit a width of {width}.")
        # Of a decoder, which may be given less room than it was trained for, the places that there will be.
        context = min(p.context, self.context) if isinstance(self.plan, ops.ModelPlan) else p.context
        table = position_table(rows, segments, p.skip, context)
        return self._constant(table)

    def _rope(self, rope: ops.Rope | None) -> int:
        if rope is None:
            return -1
        if rope not in self._ropes:
            table = rope_table(rope, self.checkpoint, self._text_tokens)
            self._ropes[rope] = self._constant(table)
        return self._ropes[rope]

    def _bias(self, bias: ops.WindowBias | ops.BucketBias | ops.LinearBias | None) -> int:
        if bias is None:
            return -1
        if bias not in self._biases:
            if isinstance(bias, ops.WindowBias):
                table = window_bias(bias, self.context)
            elif isinstance(bias, ops.LinearBias):
                table = linear_bias(bias, self.context)
            else:
                table = bucket_bias(
                    dequantize(self.checkpoint.tensor(bias.tensor)), bias.max_distance, self.context
                )
            self._biases[bias] = self._constant(table)
        return self._biases[bias]

    def _constant(self, values: np.ndarray) -> int:
        constant = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        self._constants.update(constant.data)
        return cast(int, self.core.vector(constant))

    def _vector(
        self, tensor: Tensor, size: int, add: float = 0.0, times: float = 1.0, order: np.ndarray | None = None
    ) -> int:
        key = tensor.name, times
        if key not in self._vectors:
            values = dequantize(tensor).reshape(-1)
            values = (values + np.float32(add)) * np.float32(times)
            if values.size != size:
                raise CheckpointError(
                    f"Tensor '{tensor.name}' has {values.size} values where {size} are needed."
                )
            self._vectors[key] = self._constant(values if order is None else values[order])
        return self._vectors[key]


def _outermost(plan: ops.ModelPlan | ops.EncoderPlan) -> set[str]:
    """Tensors that embed tokens or give logits."""
    logits = list(plan.buffers)[-1]
    names = {operation.tensor for operation in plan.operations if isinstance(operation, ops.Embed)}
    for operation in plan.operations:
        if isinstance(operation, ops.Linear):
            names |= {p.tensor for p in operation.projections if p.target == logits}
    return names
