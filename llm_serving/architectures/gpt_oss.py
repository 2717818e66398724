"""gpt-oss: mixtures of experts with biases and limited gates, attention sinks, windows in every other layer.

OpenAI 2025. Rotary positions are scaled by YaRN, in all layers, between dimensions that are not rounded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_experts import GGUF_NAMES, gguf_sizes
from llm_serving.architectures.decoder_shape import Defaults, Names, read_names, read_shape
from llm_serving.architectures.experts import ExpertBiases, ExpertNames, ExpertSizes
from llm_serving.architectures.layer_kinds import global_layers
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(theta=150000.0, context=131072, truncate=False)
_YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}
_WINDOW = 128
_GLOBAL_EVERY = 2  # layers; the second of two sees everything
_LIMIT, _SLOPE = 7.0, 1.702  # of gates
_MOST = 1e6


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        names = replace(names, ffn_norm="blk.{i}.post_attention_norm")
        window = gguf_keys.positive(checkpoint, "attention.sliding_window", _WINDOW)
        sinks = "blk.{i}.attn_sinks.weight"
        experts = (_gguf_experts(), _gated(gguf_sizes(checkpoint, ffn="expert_feed_forward_length")))
        has_bias = f"{names.query.format(i=0)}.bias" in checkpoint.tensors
    else:
        checkpoint = _checked(checkpoint)
        window = config_json.positive(checkpoint, "sliding_window", default=_WINDOW)
        sinks = names.query.replace("q_proj", "sinks")
        experts = (_experts(checkpoint, names), _sizes(checkpoint))
        has_bias = bool(checkpoint.metadata.get("attention_bias", True))
    shape = read_shape(checkpoint, _DEFAULTS)
    kind = Kind(
        qkv_bias=has_bias,
        output_bias=has_bias,
        sinks=sinks,
        experts=experts,
        window=window,
        open=global_layers(checkpoint, shape.layers, _GLOBAL_EVERY),
    )
    return plan_of(checkpoint, names, shape, kind)


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    """With the family's own rotary scaling where a config.json says nothing.

    Raises: CheckpointError for weights that are packed in a way that is not read.
    """
    packing: Any = checkpoint.metadata.get("quantization_config") or {}
    method = packing.get("quant_method") if isinstance(packing, dict) else packing
    if method not in (None, "mxfp4"):
        raise CheckpointError(
            f"'quantization_config' in the config.json of '{checkpoint.path}' is of {method!r}; "
            "supported: mxfp4."
        )
    config_json.require(checkpoint, "attention_bias", (True, False), True)
    if checkpoint.metadata.get("rope_parameters") or checkpoint.metadata.get("rope_scaling"):
        return checkpoint
    return replace(checkpoint, metadata={**checkpoint.metadata, "rope_scaling": _YARN})


def _gguf_experts() -> ExpertNames:
    def bias(weight: str) -> str:
        return weight.replace(".weight", ".bias")

    gate = GGUF_NAMES.gate and bias(GGUF_NAMES.gate)
    own = ExpertBiases(bias(GGUF_NAMES.router), bias(GGUF_NAMES.up), bias(GGUF_NAMES.down), gate)
    return replace(GGUF_NAMES, biases=own)


def _experts(checkpoint: Checkpoint, names: Names) -> ExpertNames:
    """Matrices are stored as inputs x outputs, but in MXFP4 as outputs x inputs."""
    mixture = names.gate.replace("gate_proj", "")
    up, down = f"{mixture}experts.gate_up_proj", f"{mixture}experts.down_proj"
    return ExpertNames(
        router=f"{mixture}router.weight",
        up=up,
        down=down,
        up_transposed=checkpoint.tensor(up.format(i=0)).kind != "MXFP4",
        transposed=checkpoint.tensor(down.format(i=0)).kind != "MXFP4",
        fused=True,
        in_turn=True,
        biases=ExpertBiases(f"{mixture}router.bias", f"{up}_bias", f"{down}_bias"),
    )


def _sizes(checkpoint: Checkpoint) -> ExpertSizes:
    sizes = ExpertSizes(
        count=config_json.positive(checkpoint, "num_local_experts", "num_experts"),
        used=config_json.positive(checkpoint, "num_experts_per_tok", "experts_per_token"),
        ffn=config_json.positive(checkpoint, "intermediate_size"),
        normalized=True,
    )
    limit = config_json.number(checkpoint, "swiglu_limit", default=_LIMIT)
    slope = config_json.number(checkpoint, "swiglu_alpha", default=_SLOPE)
    for key, value in (("swiglu_limit", limit), ("swiglu_alpha", slope)):
        if not 1 / _MOST <= value <= _MOST:
            raise CheckpointError(
                f"'{key}' in the config.json of '{checkpoint.path}' is {value:g}: no model has that."
            )
    return _gated(sizes, limit, slope)


def _gated(sizes: ExpertSizes, limit: float = _LIMIT, slope: float = _SLOPE) -> ExpertSizes:
    return replace(sizes, limit=limit, slope=slope)
