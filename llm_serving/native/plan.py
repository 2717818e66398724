"""`ModelPlan` + checkpoint → the C++ plan with its weights packed."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, cast

import numpy as np

from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.core import load_core
from llm_serving.native.delta_net import TAPS
from llm_serving.native.disentangled import projected, rows_of_distances
from llm_serving.native.plan_tensors import PlanTensors
from llm_serving.native.tables import channel_rates, conv_taps, decay_rates, halves_order


class PlanBuilder(PlanTensors):
    """Adds the operations of a plan to the C++ plan.

    Raises: CheckpointError when a tensor is missing or does not fit the plan.
    """

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
            case ops.AddGiven(target, offset):
                core.add_given(buffers[target], offset)
            case ops.AddRows():
                self._add_rows(operation)
            case ops.AddPositions():
                core.add_positions(self._positions(operation), buffers[operation.target])
            case ops.Quantize():
                self._quantize(operation)
            case ops.Clamp(source, offset, width, within):
                core.clamp(buffers[source], offset, width, *within)
            case ops.Gelu(source, tanh, quick):
                core.gelu(buffers[source], tanh, quick)
            case ops.Xielu(source, positive, negative, beta):
                core.xielu(buffers[source], positive, negative, beta)
            case ops.Gated(source, cols, activation, limit, slope, opened, within):
                gate = load_core().Gate[activation.upper()]
                place = (buffers[opened[0]], opened[1]) if opened else (-1, 0)
                core.gated(buffers[source], cols, gate, limit, slope, *place, *(within or ()))
            case ops.Linear(projections, accumulate, apart):
                firsts = [projection.first for projection in projections] if apart else []
                core.linear(self._projections(projections, apart), accumulate, firsts)
                self._adapters.adapt(projections, buffers)
            case ops.SoftCap(source, cap):
                core.soft_cap(buffers[source], cap)
            case ops.SelectRows(source, target):
                core.select_rows(buffers[source], buffers[target])
            case ops.Copy(source, target, bias, accumulate, door, scale, offset):
                shift, gate = self._optional(bias, self._widths[source]), buffers.get(door or "", -1)
                own = self._factor(scale, self._widths[source])
                rows, into, begin = buffers[source], buffers[target], -1 if offset is None else offset
                core.copy(rows, into, shift, accumulate, gate, own, begin)
            case ops.RopeStore() | ops.Attention() | ops.HeadNorm() | ops.Rotate() | ops.EncoderAttention():
                self._add_of_attention(operation)
            case ops.DisentangledAttention():
                self._add_disentangled(operation)
            case ops.GatedConv() | ops.DeltaInputs() | ops.DeltaRule() | ops.OutputGate():
                self._add_recurrent(operation)
            case ops.MambaInputs() | ops.MambaScan():
                self._add_of_mamba(operation)
            case ops.ShortConv() | ops.SelectiveScan():
                self._add_selective(operation)
            case ops.Route() | ops.Gather() | ops.ExpertLinear() | ops.Combine():
                self._add_of_experts(operation)
            case ops.AltUpPredict() | ops.AltUpCorrect() | ops.MatchMagnitude() | ops.GaussianTopK():
                self._add_of_altup(operation)

    def _add_of_attention(
        self, operation: ops.RopeStore | ops.Attention | ops.HeadNorm | ops.Rotate | ops.EncoderAttention
    ) -> None:
        core, buffers = self.core, self._buffers
        match operation:
            case ops.RopeStore(source, layer, rope, keys_are_values):
                rotated, axes = (0, ()) if rope is None else (rope.rotated, rope.axes)
                rows, heads, table = buffers[source], self.query_heads, self._rope(rope)
                shared = self._constant(self._shared[layer]) if layer in self._shared else -1
                core.rope_store(rows, layer, heads, table, rotated, keys_are_values, axes, shared)
            case ops.Attention(source, target, layer, scale, window, cap, sinks, ahead, chunk, falling):
                # Rows of a span see those that come, however far a window reaches.
                bias = self._bias(ops.WindowBias(window - 1, self._has_spans) if window else falling)
                rows, into, heads = buffers[source], buffers[target], self.query_heads
                own, each = self._optional(sinks, heads), falling is not None
                core.attention(rows, into, layer, heads, scale, window, bias, cap, own, ahead, chunk, each)
            case ops.HeadNorm(source, offset, width, heads, weight, epsilon, bias, gain, interleaved):
                shift, dim = self._optional(bias, width // heads), width // heads
                order = halves_order(dim, dim, interleaved) if interleaved else None
                norm = self._optional(weight, dim, self._norm_offset, gain, order)
                if norm < 0:
                    norm = self._constant(np.full(width // heads, gain, np.float32))
                core.head_norm(buffers[source], offset, heads, norm, epsilon, shift)
            case ops.Rotate(source, heads, head_dim, rope, first, stride):
                rows, table = buffers[source], self._rope(rope)
                core.rotate(rows, heads, head_dim, rope.rotated, table, rope.axes, first, stride)
            case ops.EncoderAttention(source, target, heads, kv_heads, scale, causal, bias, whole):
                core.encoder_attention(
                    buffers[source],
                    buffers[target],
                    heads,
                    kv_heads,
                    scale,
                    causal,
                    self._bias(bias),
                    isinstance(bias, (ops.BucketBias, ops.LinearBias)),
                    whole,
                )

    def _add_disentangled(self, operation: ops.DisentangledAttention) -> None:
        core, positions, heads = self.core, operation.positions, operation.heads

        def of_heads(linear: str | None) -> list[int]:
            if linear is None:
                return []
            rows = projected(self.checkpoint, positions, linear)
            self._constants.update(rows.data)
            return [core.low_rank(np.ascontiguousarray(part)) for part in np.split(rows, heads, axis=1)]

        core.disentangled_attention(
            self._buffers[operation.source],
            self._buffers[operation.target],
            heads,
            operation.scale,
            of_heads(operation.key),
            of_heads(operation.query),
            2 * positions.span,
            rows_of_distances(positions, self.context),
        )

    def _add_of_experts(self, operation: ops.Route | ops.Gather | ops.ExpertLinear | ops.Combine) -> None:
        core, buffers = self.core, self._buffers
        match operation:
            case ops.Route(source, used, normalized, scores, correction, scale, scales, groups, margin):
                shift = self._optional(correction, self._widths[source])
                own = self._optional(scales, self._widths[source])
                parts = (groups.count, groups.used, groups.best) if groups else (1, 1, 1)
                is_sigmoid = scores == "sigmoid"
                core.route(buffers[source], used, normalized, is_sigmoid, shift, scale, own, *parts, margin)
            case ops.Gather(source, weighted):
                core.gather(buffers[source], weighted)
            case ops.ExpertLinear(experts):
                core.expert_linear([self._projections(projections) for projections in experts])
            case ops.Combine(source, target, bias, accumulate, weighted):
                shift = self._optional(bias, self._widths[source])
                core.combine(buffers[source], buffers[target], shift, accumulate, weighted)

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
            case ops.OutputGate(source, gates, offset, activation, weight, head_dim, epsilon, gate_first):
                norm = self._optional(weight, self._widths[source] if gate_first else head_dim)
                rows, by = buffers[source], buffers[gates]
                core.output_gate(rows, by, offset, activation, norm, epsilon, head_dim, gate_first)

    def _add_of_mamba(self, operation: ops.MambaInputs | ops.MambaScan) -> None:
        heads, source = operation.heads, self._buffers[operation.source]
        sizes = (heads.count, heads.dim, heads.groups, heads.state)
        match operation:
            case ops.MambaInputs():
                taps = conv_taps(self.checkpoint.tensor(operation.taps), heads.channels, TAPS)
                shift = self._optional(operation.conv_bias, heads.channels)
                own = self._optional(operation.bias, heads.count)
                self.core.mamba_inputs(source, *sizes, self._constant(taps), shift, own)
            case ops.MambaScan():
                tensor = self.checkpoint.tensor(operation.rates)
                rates = self._constant(decay_rates(tensor, heads.count, operation.is_logarithm))
                skips = self._optional(operation.skips, heads.count)
                self.core.mamba_scan(source, self._buffers[operation.target], *sizes, rates, skips)

    def _add_selective(self, operation: ops.ShortConv | ops.SelectiveScan) -> None:
        core, buffers = self.core, self._buffers
        match operation:
            case ops.ShortConv(source, taps, bias):
                channels = self._widths[source]
                table = conv_taps(self.checkpoint.tensor(taps), channels, TAPS)
                core.short_conv(buffers[source], self._constant(table), self._optional(bias, channels))
            case ops.SelectiveScan(source, steps, both, target, channels, rates, skips, is_logarithm):
                own = (buffers[name] for name in (source, steps, both, target))
                table = channel_rates(self.checkpoint.tensor(rates), channels, is_logarithm)
                skip = self._optional(skips, channels.count)
                core.selective_scan(*own, channels.state, self._constant(table), skip)

    def _add_of_altup(
        self, operation: ops.AltUpPredict | ops.AltUpCorrect | ops.MatchMagnitude | ops.GaussianTopK
    ) -> None:
        core, buffers = self.core, self._buffers
        match operation:
            case ops.AltUpPredict(streams, router, weights):
                mixes = self._optional(weights, len(streams) ** 3)
                core.altup_predict([buffers[name] for name in streams], buffers[router], mixes)
            case ops.AltUpCorrect(streams, source, router, weights):
                gains = self._optional(weights, len(streams) ** 2)
                names = [buffers[name] for name in streams]
                core.altup_correct(names, buffers[source], buffers[router], gains)
            case ops.MatchMagnitude(source, like, least):
                core.match_magnitude(buffers[source], buffers[like], least)
            case ops.GaussianTopK(source, cols, deviations):
                core.gaussian_top_k(buffers[source], cols, deviations)

    def _add_rows(self, rows: ops.AddRows) -> None:
        tensor = self.checkpoint.tensor(rows.tensor)
        if len(tensor.shape) != 2:
            raise CheckpointError(
                f"Tensor '{rows.tensor}' has shape {tensor.shape}; a table has two dimensions."
            )
        self._weights.note_unread(tensor)
        table = tensor.as_rows()
        target, beyond = self._buffers[rows.target], -1 if rows.beyond is None else rows.beyond
        self.core.add_rows(table.kind, table.data, tensor.shape[0], target, rows.scale, beyond)

    def _quantize(self, q: ops.Quantize) -> None:
        width = self._widths[q.source]
        bias = self._optional(q.bias, width)
        if q.layer_norm and bias < 0:
            bias = self._constant(np.zeros(width, np.float32))
        weight = self._optional(q.weight, width, self._norm_offset, q.gain)
        if q.layer_norm and weight < 0:
            weight = self._constant(np.full(width, q.gain, np.float32))
        self.core.quantize(self._buffers[q.source], weight, bias, q.epsilon, q.keep, *(q.within or ()))

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


def core_plan(*, threads: int, isa: str, max_tokens: int, max_context: int, is_encoder: bool = False) -> Any:
    """A new, empty C++ plan. Steps of encoders and of other plans take turns on the cores.

    Raises: ValueError for an instruction set this CPU does not have.
    """
    core = load_core()
    side = core.Side.ENCODERS if is_encoder else core.Side.CHAT
    return core.Plan(threads, isa, max_tokens, max_context, side)
