"""What all keys of a head have in common, which coarse formats of the KV cache are kept without.

Biases of keys may be hundreds of times what tells keys apart (Qwen 2.5), nearly all of it in dimensions
that turn so slowly that it is the same wherever the key stands. A softmax does not change if all scores
change by the same, so neither does attention if all keys do; and what is left is rounded by a finer step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from llm_serving.checkpoints import Checkpoint, dequantize
from llm_serving.native import ops
from llm_serving.native.projection import tensor_of
from llm_serving.native.tables import frequencies_of, halves_order

_MOST_ANGLE = 1.0  # rad, at the end of the context: even there less is left of a bias than there was


def shared_keys(plan: ops.ModelPlan, checkpoint: Checkpoint) -> dict[int, np.ndarray]:
    """Of each layer whose keys have any: float32 [heads * head_dim], to be taken off keys that were rotated.

    By the plan's own context, so that what is kept on disk does not depend on settings.
    """
    unfit = {each.layer for each in plan.operations if isinstance(each, ops.Attention) and _is_unfit(each)}
    found = {}
    for store, projections in _stores(plan):
        if store.layer in unfit or store.keys_are_values:
            continue
        kv = plan.kv[store.layer]
        bias = _bias(checkpoint, projections, plan.query_heads * kv.head_dim, kv.heads * kv.head_dim)
        common = bias.reshape(kv.heads, -1) * _stays(store.rope or plan.rope, checkpoint, plan, kv.head_dim)
        if common.any():
            found[store.layer] = common.reshape(-1).astype(np.float32)
    return found


def _is_unfit(attention: ops.Attention) -> bool:
    """Whether weights depend on more than differences of scores."""
    return attention.sinks is not None or attention.cap > 0


def _stores(plan: ops.ModelPlan) -> Iterator[tuple[ops.RopeStore, list[ops.Projection]]]:
    """With what wrote their keys, unless keys are changed behind that."""
    writers: dict[str, list[ops.Projection]] = {}
    for operation in plan.operations:
        match operation:
            case ops.Linear(projections, accumulate):
                for target in {p.target for p in projections}:
                    writers[target] = [p for p in projections if p.target == target and not accumulate]
            case ops.RopeStore(source) if source in writers:
                yield operation, writers[source]
            case _:  # whether it reads or writes
                for name in ("source", "target"):
                    writers.pop(getattr(operation, name, ""), None)


def _bias(
    checkpoint: Checkpoint, projections: Sequence[ops.Projection], first: int, count: int
) -> np.ndarray:
    """float32 [count], of columns from the `first` on; zeros where there is none."""
    out = np.zeros(first + count, np.float32)
    for p in projections:
        if p.bias is None or p.offset >= len(out):
            continue
        part = replace(p.part, transposed=False) if isinstance(p.part, ops.Part) else p.part
        bias = dequantize(tensor_of(checkpoint, p.bias, part)).reshape(-1)
        rows = tensor_of(checkpoint, p.tensor, p.part).shape[0]
        if len(bias) != rows or rows % (p.interleaved or 1):
            continue  # who packs it tells that it does not fit
        if p.interleaved:
            bias = bias[halves_order(len(bias), p.interleaved, p.rotated)]
        out[p.offset : p.offset + len(bias)] = bias[: len(out) - p.offset]
    return out[first:]


def _stays(rope: ops.Rope, checkpoint: Checkpoint, plan: ops.ModelPlan, head_dim: int) -> np.ndarray:
    """float32 [head_dim]: what a dimension is multiplied by wherever a key stands; 0 if it turns too far."""
    out = np.ones(head_dim, np.float32)
    if 0 < rope.rotated <= head_dim:
        turned = frequencies_of(rope, checkpoint, plan.max_context) * plan.max_context > _MOST_ANGLE
        turned |= rope.growth > 0
        out[: rope.rotated] = np.where(np.tile(turned, 2), 0, rope.magnitude)
    return out
