"""`ModelPlan` + checkpoint → the C++ plan with its weights packed."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any, cast

import numpy as np

from llm_serving.checkpoints import Checkpoint, Tensor, dequantize
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.core import load_core
from llm_serving.native.delta_net import TAPS
from llm_serving.native.packed_cache import PackedCache
from llm_serving.native.packed_weights import PackedWeights
from llm_serving.native.projection import tensor_of
from llm_serving.native.tables import (
    bucket_bias,
    conv_taps,
    decay_rates,
    halves_order,
    linear_bias,
    position_table,
    rope_table,
    window_bias,
)


class PlanBuilder:
    """Packs each tensor once and names what C++ numbers.

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
    ) -> None:
        self.checkpoint = checkpoint
        self.plan = plan
        self.core = core_plan
        self.weight_format = weight_format
        self.context = context
        self._text_tokens = plan.context if isinstance(plan, ops.EncoderPlan) else context
        self._ropes: dict[ops.Rope, int] = {}
        self._biases: dict[ops.WindowBias | ops.BucketBias | ops.LinearBias, int] = {}
        self._matrices: dict[tuple[str, int, int, bool, ops.Part | ops.Stripe | None], int] = {}
        self._vectors: dict[tuple[str, float], int] = {}
        self._constants = blake2b()
        self._weights = PackedWeights(core_plan, checkpoint, weight_format, packed)
        self.query_heads = plan.query_heads if isinstance(plan, ops.ModelPlan) else 0
        self._norm_offset = plan.norm_offset if isinstance(plan, ops.ModelPlan) else 0.0
        first, *others = plan.buffers.items()  # an encoder's output is the first buffer, logits are the last
        self._widths = dict([first, *plan.slots.items(), *others])
        self._buffers = {
            name: core_plan.buffer(width, name in plan.slots) for name, width in self._widths.items()
        }

    def build(self) -> int:
        """Add every operation; return the number of the last buffer, which logits go to."""
        try:
            for operation in self.plan.operations:
                self._add(operation)
            self._weights.finish()
        except ValueError as error:
            raise CheckpointError(f"'{self.checkpoint.path}' does not fit its header: {error}.") from error
        finally:
            self._weights.discard()  # which is nothing after `finish`
        return cast(int, list(self._buffers.values())[-1])

    def packed_bytes(self, projection: ops.Projection) -> int:
        """Length of a projection's packed matrix; packs it if `build` has not."""
        return cast(int, self.core.matrix_bytes(self._matrix(projection)))

    def content_digest(self, *more: Any) -> bytes:
        """16 bytes that name what `build` made and how it computes: equal if a pass gives equal bits."""
        core = load_core()
        facts = (core.ARITHMETIC, core.PACKING, self.plan, self._weights.sums, *more)
        return blake2b(repr(facts).encode() + self._constants.digest(), digest_size=16).digest()

    def _add(self, operation: ops.Operation) -> None:
        core, buffers = self.core, self._buffers
        match operation:
            case ops.Embed(tensor, target, fine, scale):
                core.embed(self._matrix(ops.Projection(tensor, target, fine=fine)), buffers[target], scale)
            case ops.Given(target):
                core.given(buffers[target])
            case ops.AddPositions():
                core.add_positions(self._positions(operation), buffers[operation.target])
            case ops.Quantize():
                self._quantize(operation)
            case ops.Gelu(source, tanh):
                core.gelu(buffers[source], tanh)
            case ops.Gated(source, cols, activation, limit, slope):
                is_gelu, by_tanh = activation != "silu", activation == "gelu_tanh"
                core.gated(buffers[source], cols, is_gelu, by_tanh, limit, slope)
            case ops.Linear(projections, accumulate):
                core.linear(self._projections(projections), accumulate)
            case ops.RopeStore(source, layer, rope):
                core.rope_store(buffers[source], layer, self.query_heads, self._rope(rope))
            case ops.Attention(source, target, layer, scale, window, cap, sinks):
                bias = self._bias(ops.WindowBias(window - 1)) if window else -1
                rows, into, heads = buffers[source], buffers[target], self.query_heads
                own = self._optional(sinks, heads)
                core.attention(rows, into, layer, heads, scale, window, bias, cap, own)
            case ops.SoftCap(source, cap):
                core.soft_cap(buffers[source], cap)
            case ops.HeadNorm(source, offset, width, heads, weight, epsilon, bias):
                shift = self._optional(bias, width // heads)
                norm = self._optional(weight, width // heads, self._norm_offset)
                core.head_norm(buffers[source], offset, heads, norm, epsilon, shift)
            case ops.Rotate(source, heads, head_dim, rope):
                core.rotate(buffers[source], heads, head_dim, rope.rotated, self._rope(rope))
            case ops.EncoderAttention(source, target, heads, kv_heads, scale, causal, bias):
                core.encoder_attention(
                    buffers[source],
                    buffers[target],
                    heads,
                    kv_heads,
                    scale,
                    causal,
                    self._bias(bias),
                    isinstance(bias, (ops.BucketBias, ops.LinearBias)),
                )
            case ops.SelectRows(source, target):
                core.select_rows(buffers[source], buffers[target])
            case ops.Copy(source, target, bias, accumulate, gate):
                shift = self._optional(bias, self._widths[source])
                opening = -1 if gate is None else buffers[gate]
                core.copy(buffers[source], buffers[target], shift, accumulate, opening)
            case ops.Route(source, used, normalized):
                core.route(buffers[source], used, normalized)
            case ops.Gather(source):
                core.gather(buffers[source])
            case ops.ExpertLinear(experts):
                core.expert_linear([self._projections(projections) for projections in experts])
            case ops.Combine(source, target, bias):
                core.combine(buffers[source], buffers[target], self._optional(bias, self._widths[source]))
            case _:
                self._add_recurrent(operation)

    def _add_recurrent(
        self, operation: ops.GatedConv | ops.DeltaInputs | ops.DeltaRule | ops.OutputGate
    ) -> None:
        """Operations of recurrent layers, and gates of attention, which come with them."""
        core, buffers = self.core, self._buffers
        match operation:
            case ops.GatedConv(source, target, weight, taps):
                table = conv_taps(self.checkpoint.tensor(weight), self._widths[target], taps)
                core.gated_conv(buffers[source], buffers[target], self._constant(table), taps)
            case ops.DeltaInputs():
                self._delta_inputs(operation)
            case ops.DeltaRule(source, target, heads):
                sizes = (heads.keys, heads.values, heads.key_dim, heads.value_dim)
                core.delta_rule(buffers[source], buffers[target], *sizes, heads.tiled)
            case ops.OutputGate(source, gates, offset, activation, weight, head_dim, epsilon):
                norm = self._optional(weight, head_dim)
                is_silu = activation == "silu"
                core.output_gate(buffers[source], buffers[gates], offset, is_silu, norm, epsilon)

    def _projections(self, projections: tuple[ops.Projection, ...]) -> list[tuple[int, int, int, int]]:
        """Those of one operation fill the rows of their target: what nobody wrote would be another step's."""
        for p, behind in zip(projections, (*projections[1:], None), strict=True):
            goes_on = behind is not None and behind.target == p.target
            wanted = (behind.offset if goes_on and behind else self._widths[p.target]) - p.offset
            rows = tensor_of(self.checkpoint, p.tensor, p.part).shape[0]
            if rows != wanted:
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
        key = (p.tensor, p.interleaved, p.rotated, p.fine, p.part)
        if key not in self._matrices:
            tensor = tensor_of(self.checkpoint, p.tensor, p.part)
            if len(tensor.shape) != 2 or tensor.shape[1] % 32:
                raise CheckpointError(
                    f"Tensor '{p.tensor}' has shape {tensor.shape}; the engine needs two dimensions, "
                    "the second a multiple of 32."
                )
            weight_format = "q12" if p.fine and self.weight_format != "f32" else self.weight_format
            self._matrices[key] = self._weights.matrix(tensor, p.interleaved, weight_format, p.rotated)
        return self._matrices[key]

    def _optional(self, name: str | None, size: int, add: float = 0.0, times: float = 1.0) -> int:
        return -1 if name is None else self._vector(self.checkpoint.tensor(name), size, add, times)

    def _quantize(self, q: ops.Quantize) -> None:
        width = self._widths[q.source]
        bias = self._optional(q.bias, width)
        if q.layer_norm and bias < 0:
            bias = self._constant(np.zeros(width, np.float32))
        weight = self._optional(q.weight, width, self._norm_offset, q.gain)
        self.core.quantize(self._buffers[q.source], weight, bias, q.epsilon, q.keep)

    def _delta_inputs(self, d: ops.DeltaInputs) -> None:
        heads = d.heads
        taps = conv_taps(self.checkpoint.tensor(d.taps), heads.channels, TAPS)
        rates = decay_rates(self.checkpoint.tensor(d.rates), heads.values, d.is_logarithm)
        self.core.delta_inputs(
            self._buffers[d.source],
            heads.keys,
            heads.values,
            heads.key_dim,
            heads.value_dim,
            self._constant(taps),
            self._constant(rates),
            self._optional(d.bias, heads.values),
        )

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
        table = position_table(rows, segments, p.skip, p.context)
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


def core_plan(*, threads: int, isa: str, max_tokens: int, max_context: int, is_encoder: bool = False) -> Any:
    """A new, empty C++ plan. Steps of encoders and of other plans take turns on the cores.

    Raises: ValueError for an instruction set this CPU does not have.
    """
    core = load_core()
    side = core.Side.ENCODERS if is_encoder else core.Side.CHAT
    return core.Plan(threads, isa, max_tokens, max_context, side)
