"""Nanbeige 4.2: llama whose layers are gone through several times (Nanbeige Lab 2026).

Each time they keep keys and values of their own; weights are the same.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_layer import layer
from llm_serving.architectures.decoder_shape import Defaults, read_names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops

_MOST = 64  # times


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a directory, or layers that are gone through more often than any are."""
    gguf_keys.require_gguf(checkpoint)
    times = gguf_keys.positive(checkpoint, "num_loops", 1)
    if times > _MOST:
        raise gguf_keys.problem(checkpoint, "num_loops", times, f"up to {_MOST} are run")
    names, shape, kind = read_names(checkpoint), read_shape(checkpoint, Defaults()), Kind(interleaved=True)
    is_normed = not checkpoint.hyper("skip_loop_final_norm", False)
    norm = ops.Quantize("x", f"{names.norm}.weight", shape.epsilon, keep=True)

    def turn(i: int) -> tuple[ops.Operation, ...]:
        between = (norm,) if is_normed and i > 0 and i % shape.layers == 0 else ()
        return (*between, *layer(checkpoint, i % shape.layers, names, shape, kind, cache=i))

    return plan_of(checkpoint, names, replace(shape, layers=times * shape.layers), kind, turn)
