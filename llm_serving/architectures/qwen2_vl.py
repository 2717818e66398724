"""Qwen2-VL (Wang et al. 2024): all patches see each other; layer norms, a quick gelu."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import text_part
from llm_serving.architectures.config_json import before, part, positive, require
from llm_serving.architectures.mrope import with_axes
from llm_serving.architectures.padded import Padded, padded
from llm_serving.architectures.qwen_tower import (
    PATCHES,
    Sight,
    attention,
    merger,
    norm,
    plain_part,
    read_shape,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops
from llm_serving.native.vision_plan import AnySizePlan

_SECTIONS = (16, 24, 24)


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Its text model. Raises: CheckpointError as `text_part.describe` and `with_axes` do."""
    return with_axes(text_part.describe(checkpoint), text_part.text_part(checkpoint), _SECTIONS)


def describe_vision(checkpoint: Checkpoint, rows: int) -> tuple[AnySizePlan, Checkpoint]:
    """The plan for pictures of up to so many rows, and the checkpoint with tensors in the shapes it needs.

    Raises: CheckpointError when sizes do not fit each other, the tensors or the engine.
    """
    vision = replace(checkpoint, metadata=part(checkpoint, "vision_config"))
    require(vision, "hidden_act", ("quick_gelu",), "quick_gelu")
    hidden = positive(vision, "embed_dim", default=1280)
    shape = read_shape(vision, hidden, positive(vision, "mlp_ratio", default=4) * hidden)
    prefix, shapes = before(checkpoint, PATCHES), Padded(vision)
    blocks: list[ops.Operation] = []
    for i in range(shape.layers):
        layer = f"{prefix}blocks.{i}."
        blocks += attention(layer, shape, layer_norm=True, whole=False)
        blocks += plain_part(f"{layer}mlp.fc1", f"{layer}mlp.fc2", shape, shapes, ops.Gelu("up", quick=True))
    blocks.append(norm(f"{prefix}merger.ln_q", shape, True, keep=True))
    width = positive(text_part.text_part(checkpoint), "hidden_size")
    connector = merger(f"{prefix}merger.mlp.0", f"{prefix}merger.mlp.2", shape, width)
    plan = Sight(shapes, prefix, shape, rows, padded(shape.ffn)).plan(blocks, (connector,))
    return plan, replace(vision, tensors=shapes.tensors)
