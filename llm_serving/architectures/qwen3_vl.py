"""Qwen3-VL, dense or of experts (Bai et al. 2025): learned positions beside turned ones, and DeepStack
(Meng et al. 2024): what some blocks of the tower see is added in the first layers of the text model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import gguf_keys, qwen3, text_part
from llm_serving.architectures.config_json import before, part, positive, require
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_experts import qwen3_moe_kind
from llm_serving.architectures.decoder_layer import layer as decoder_layer
from llm_serving.architectures.decoder_shape import read_names, read_shape
from llm_serving.architectures.mrope import with_axes
from llm_serving.architectures.padded import Padded, padded
from llm_serving.architectures.qwen_tower import PATCHES, Sight, attention, merger, norm, plain_part
from llm_serving.architectures.qwen_tower import read_shape as read_tower
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.vision_plan import AnySizePlan

_SECTIONS = (24, 20, 20)
_MIXTURES = ("qwen3_vl_moe_text", "qwen3vlmoe")  # as GGUF files call it
_USUAL = {"patch_size": 16, "depth": 27}  # where a config.json leaves them out
_USUAL_DEEP = {"qwen3_vl": [8, 16, 24], "qwen3_vl_moe": [8, 16, 24]}  # of others none


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Its text model, whose first layers add what is given. Raises: CheckpointError for another one."""
    is_gguf = checkpoint.format == "gguf"
    text = checkpoint if is_gguf else text_part.text_part(checkpoint)
    if not is_gguf and text.architecture != f"{checkpoint.architecture}_text":
        raise CheckpointError(
            f"The text model of '{checkpoint.path}' is a '{text.architecture}'; the engine runs "
            f"'{checkpoint.architecture}_text' there."
        )
    qwen3.require_plain(text)
    names, shape, kind = read_names(text), read_shape(text, qwen3.DEFAULTS), _kind(text)
    deep = len(_deep_blocks(_vision(checkpoint))) if "vision_config" in checkpoint.metadata else 0
    if is_gguf and not gguf_keys.is_zero(checkpoint, "n_deepstack_layers"):
        deep = gguf_keys.positive(checkpoint, "n_deepstack_layers")
    if deep > shape.layers:
        raise CheckpointError(f"'{checkpoint.path}' has {shape.layers} layers for {deep} views of a picture.")

    def own_layer(i: int) -> tuple[ops.Operation, ...]:
        added = [ops.AddGiven("x", (i + 1) * shape.hidden)] if i < deep else []
        return (*decoder_layer(text, i, names, shape, kind), *added)

    return with_axes(plan_of(text, names, shape, kind, own_layer), text, _SECTIONS, interleaved=True)


def _kind(text: Checkpoint) -> Kind:
    if text.architecture not in _MIXTURES:
        return Kind(head_norm=True)
    # Weights of experts always have a sum of one, which not every config.json says.
    return qwen3_moe_kind(replace(text, metadata={"norm_topk_prob": True, **text.metadata}))


def describe_vision(checkpoint: Checkpoint, rows: int) -> tuple[AnySizePlan, Checkpoint]:
    """The plan for pictures of up to so many rows, and the checkpoint with tensors in the shapes it needs.

    Raises: CheckpointError when sizes do not fit each other, the tensors or the engine.
    """
    vision = _vision(checkpoint)
    require(vision, "hidden_act", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    if checkpoint.architecture not in _USUAL_DEEP:
        require(vision, "deepstack_visual_indexes", ([],), [])
    hidden = positive(vision, "hidden_size", default=1152)
    shape = read_tower(vision, hidden, positive(vision, "intermediate_size", default=4304))
    prefix, shapes, deep = before(checkpoint, PATCHES), Padded(vision), _deep_blocks(vision)
    blocks: list[ops.Operation] = []
    for i in range(shape.layers):
        layer = f"{prefix}blocks.{i}."
        mlp = f"{layer}mlp.linear_fc"
        blocks += attention(layer, shape, layer_norm=True, whole=False)
        blocks += plain_part(f"{mlp}1", f"{mlp}2", shape, shapes, ops.Gelu("up", tanh=True))
        blocks += [ops.Copy("x", "seen", offset=(n + 1) * hidden) for n, at in enumerate(deep) if at == i]
    blocks.append(norm(f"{prefix}merger.norm", shape, True, keep=True))
    blocks += [ops.Copy("x", "seen", offset=0)] if deep else []
    width = positive(text_part.text_part(checkpoint), "hidden_size")
    connectors = [merger(f"{prefix}merger.linear_fc1", f"{prefix}merger.linear_fc2", shape, width)]
    for number in range(len(deep)):
        own = f"{prefix}deepstack_merger_list.{number}."
        connectors.append(merger(f"{own}linear_fc1", f"{own}linear_fc2", shape, width, f"{own}norm"))
    sight = Sight(shapes, prefix, shape, rows, padded(shape.ffn))
    plan = sight.plan(blocks, tuple(connectors), bias=True, positions=f"{prefix}pos_embed.weight")
    return plan, replace(vision, tensors=shapes.tensors)


def _vision(checkpoint: Checkpoint) -> Checkpoint:
    usual = {**_USUAL, "deepstack_visual_indexes": _USUAL_DEEP.get(checkpoint.architecture, [])}
    return replace(checkpoint, metadata={**usual, **part(checkpoint, "vision_config")})


def _deep_blocks(vision: Checkpoint) -> list[int]:
    """Whose patches are shown to a layer of the text model each. Raises: CheckpointError for no blocks."""
    found: Any = vision.metadata["deepstack_visual_indexes"]
    layers = positive(vision, "depth")
    is_list = isinstance(found, list) and all(type(index) is int for index in found)
    if not is_list or sorted({index for index in found if 0 <= index < layers}) != found:
        raise CheckpointError(
            f"'deepstack_visual_indexes' in the config.json of '{vision.path}' is no list of its {layers} "
            "blocks, in order."
        )
    return list(found)
