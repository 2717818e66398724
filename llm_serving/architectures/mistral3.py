"""Ministral 3 and Mistral 3's GGUF files: queries grow with their positions (Mistral AI 2025)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import Defaults, Shape, read_names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan, Rope

_DEFAULTS = Defaults(theta=1000000.0, context=262144)


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for experts, biases, or a growth that no model has."""
    shape = read_shape(checkpoint, _DEFAULTS)
    if checkpoint.format == "gguf":
        if checkpoint.hyper("expert_count", 0):
            raise gguf_keys.problem(checkpoint, "expert_count", "there", "experts are not supported")
        kind = Kind(interleaved=True, growth=_growth_of_gguf(checkpoint, shape))
    else:
        has_window = checkpoint.metadata.get("sliding_window") is not None
        window = config_json.positive(checkpoint, "sliding_window") if has_window else 0
        kind = Kind(window=window, growth=_growth_of_config(checkpoint, shape))
    return plan_of(checkpoint, read_names(checkpoint), shape, kind)


def _growth_of_gguf(checkpoint: Checkpoint, shape: Shape) -> Rope | None:
    if not checkpoint.hyper("attention.temperature_scale"):
        return None
    growth = gguf_keys.number(checkpoint, "attention.temperature_scale", 0.1)
    span = gguf_keys.positive(checkpoint, "rope.scaling.original_context_length")
    return _growing(checkpoint, shape, growth, span)


def _growth_of_config(checkpoint: Checkpoint, shape: Shape) -> Rope | None:
    given: Any = checkpoint.metadata.get("rope_parameters") or checkpoint.metadata.get("rope_scaling")
    if not isinstance(given, dict) or not given.get("llama_4_scaling_beta"):
        return None
    own = replace(checkpoint, metadata=given)
    growth = config_json.number(own, "llama_4_scaling_beta", default=0.1)
    span = config_json.positive(own, "original_max_position_embeddings")
    return _growing(checkpoint, shape, growth, span)


def _growing(checkpoint: Checkpoint, shape: Shape, growth: float, span: int) -> Rope:
    if growth > 1:
        raise CheckpointError(f"Queries of '{checkpoint.path}' grow by {growth:g}: no model has that.")
    return replace(Rope(shape.rope.theta, shape.head_dim).still, growth=growth, span=span)
