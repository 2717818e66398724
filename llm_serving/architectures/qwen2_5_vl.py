"""Qwen2.5-VL (Bai et al. 2025): patches see those of a window, in some blocks all; RMS norms, gates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import qwen2, text_part
from llm_serving.architectures.config_json import before, part, positive, require
from llm_serving.architectures.mrope import with_axes
from llm_serving.architectures.padded import Padded, padded
from llm_serving.architectures.qwen_tower import (
    PATCHES,
    Shape,
    Sight,
    attention,
    linear,
    merger,
    norm,
    read_shape,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.vision_plan import AnySizePlan

_SECTIONS = (16, 24, 24)


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Its text model. Raises: CheckpointError as `text_part.describe` and `with_axes` do."""
    if checkpoint.format == "gguf":  # of Qwen2-VL, too
        return with_axes(qwen2.describe(checkpoint), checkpoint, _SECTIONS)
    return with_axes(text_part.describe(checkpoint), text_part.text_part(checkpoint), _SECTIONS)


def describe_vision(checkpoint: Checkpoint, rows: int) -> tuple[AnySizePlan, Checkpoint]:
    """The plan for pictures of up to so many rows, and the checkpoint with tensors in the shapes it needs.

    Raises: CheckpointError when sizes do not fit each other, the tensors or the engine.
    """
    vision = replace(checkpoint, metadata=part(checkpoint, "vision_config"))
    require(vision, "hidden_act", ("silu",), "silu")
    shape = read_shape(vision, positive(vision, "hidden_size"), positive(vision, "intermediate_size"))
    window = positive(vision, "window_size", default=112) // (shape.patch * shape.side)
    if not window:
        raise CheckpointError(f"Windows of '{checkpoint.path}' are smaller than what becomes one row.")
    prefix, shapes, whole = before(checkpoint, PATCHES), Padded(vision), _whole_blocks(vision)
    blocks: list[ops.Operation] = []
    for i in range(shape.layers):
        layer = f"{prefix}blocks.{i}."
        blocks += attention(layer, shape, layer_norm=False, whole=i in whole)
        blocks += _gated(layer, shape, shapes)
    blocks.append(norm(f"{prefix}merger.ln_q", shape, False, keep=True))
    width = positive(text_part.text_part(checkpoint), "hidden_size")
    connector = merger(f"{prefix}merger.mlp.0", f"{prefix}merger.mlp.2", shape, width)
    sight = Sight(shapes, prefix, shape, rows, 2 * padded(shape.ffn))
    plan = sight.plan(blocks, (connector,), window=window)
    return plan, replace(vision, tensors=shapes.tensors)


def _gated(layer: str, shape: Shape, shapes: Padded) -> tuple[ops.Operation, ...]:
    mlp, wide = f"{layer}mlp.", padded(shape.ffn)
    for name in ("gate_proj", "up_proj"):
        shapes.rows(f"{mlp}{name}.weight", shape.ffn)
        shapes.rows(f"{mlp}{name}.bias", shape.ffn)
    shapes.columns(f"{mlp}down_proj.weight", shape.ffn)
    return (
        ops.Linear((linear(f"{mlp}gate_proj", "up"), linear(f"{mlp}up_proj", "up", wide))),
        ops.Gated("up", wide),
        ops.Linear((linear(f"{mlp}down_proj", "x"),), accumulate=True),
    )


def _whole_blocks(vision: Checkpoint) -> set[int]:
    """Those whose patches all see each other. Raises: CheckpointError for no list of numbers."""
    found: Any = vision.metadata.get("fullatt_block_indexes", [7, 15, 23, 31])
    if not isinstance(found, list) or any(type(index) is not int for index in found):
        raise CheckpointError(
            f"'fullatt_block_indexes' in the config.json of '{vision.path}' is no list of blocks."
        )
    return set(found)
