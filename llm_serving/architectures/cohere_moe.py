"""Command A+ and North Mini: Command R7B with experts, the first layers dense (Cohere 2026)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, deepseek_gguf, gguf_keys
from llm_serving.architectures.cohere import logit_scale
from llm_serving.architectures.decoder import Kind, Scales
from llm_serving.architectures.decoder_experts import without_router
from llm_serving.architectures.decoder_shape import LAYER_NORM, Defaults, Names, Shape, read_names, read_shape
from llm_serving.architectures.experts import ExpertSizes
from llm_serving.architectures.layer_kinds import every, global_layers
from llm_serving.architectures.shared_experts import expert_names, expert_sizes, mixture_plan, shared_names
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_LAYER_NORM = Defaults(context=8192, epsilons=LAYER_NORM)
_RMS_NORM = Defaults(context=8192)
_GLOBAL_EVERY = 4  # layers; the last of four sees everything
_SIGMOID = 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """A GGUF file or a directory.

    Raises: CheckpointError for biases, a window of no tokens, an impossible scale, or a size that is missing.
    """
    names = read_names(checkpoint)
    read = _of_gguf if checkpoint.format == "gguf" else _of_config
    shape, kind = read(checkpoint, names)
    scales = Scales(logits=logit_scale(checkpoint))
    kind = replace(kind, scales=scales, parallel=True, interleaved=True)
    return mixture_plan(checkpoint, names, shape, kind)


def _of_gguf(checkpoint: Checkpoint, names: Names) -> tuple[Shape, Kind]:
    has_mean = checkpoint.hyper("attention.layer_norm_rms_epsilon") is None
    shape = read_shape(checkpoint, _LAYER_NORM if has_mean else _RMS_NORM)
    shape = replace(shape, layers=gguf_keys.without_further(checkpoint, shape.layers))
    usual = {f"{checkpoint.architecture}.expert_gating_func": _SIGMOID}
    own, sizes = deepseek_gguf.experts_of(replace(checkpoint, metadata={**usual, **checkpoint.metadata}))
    is_normalized = sizes.normalized or sizes.scores == "softmax"
    everything = global_layers(checkpoint, shape.layers, _GLOBAL_EVERY)
    return shape, Kind(
        layer_norm=has_mean,
        experts=(own, replace(sizes, normalized=is_normalized, averaged=True)),
        window=gguf_keys.positive(checkpoint, "attention.sliding_window"),
        open=everything,
        still=everything - without_router(checkpoint, own, shape.layers),
    )


def _of_config(checkpoint: Checkpoint, names: Names) -> tuple[Shape, Kind]:
    config_json.require(checkpoint, "attention_bias", (False,), False)
    metadata: Any = checkpoint.metadata
    dense_ffn = metadata.get("prefix_dense_intermediate_size") or metadata.get("intermediate_size")
    has_mean = metadata.get("rms_norm_eps") is None
    own = replace(checkpoint, metadata={**metadata, "intermediate_size": dense_ffn})
    shape = read_shape(own, _LAYER_NORM if has_mean else _RMS_NORM)
    experts = expert_names(names, shared_names(names)), _sizes(checkpoint)
    dense = without_router(checkpoint, experts[0], shape.layers)
    period = config_json.positive(checkpoint, "prefix_dense_sliding_window_pattern", default=1)
    everything = _global_layers(checkpoint, shape.layers, len(dense), period)
    return shape, Kind(
        layer_norm=has_mean,
        experts=experts,
        window=config_json.positive(checkpoint, "sliding_window", default=4096),
        open=everything,
        still=everything - dense if period == 1 else everything,
    )


def _global_layers(checkpoint: Checkpoint, layers: int, dense: int, period: int) -> frozenset[int]:
    """Dense layers have a period of their own."""
    if checkpoint.metadata.get("layer_types") is not None:
        return global_layers(checkpoint, layers, _GLOBAL_EVERY)
    others = config_json.positive(checkpoint, "sliding_window_pattern", default=_GLOBAL_EVERY)
    return every(period, dense) | frozenset(dense + i for i in every(others, layers - dense))


def _sizes(checkpoint: Checkpoint) -> ExpertSizes:
    """Softmax is of the experts that are used."""
    config_json.require(checkpoint, "expert_selection_fn", ("softmax", "sigmoid"), "softmax")
    strategy = "shared_expert_combination_strategy"
    config_json.require(checkpoint, strategy, ("average", "sum"), "average")
    sizes = expert_sizes(checkpoint, "num_experts", "intermediate_size", True)
    scores = str(checkpoint.metadata.get("expert_selection_fn", "softmax"))
    return replace(
        sizes,
        scores=scores,
        normalized=sizes.normalized or scores == "softmax",
        averaged=checkpoint.metadata.get(strategy, "average") == "average",
    )
