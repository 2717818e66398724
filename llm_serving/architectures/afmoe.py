"""Trinity: sigmoids gate what attention gives, norms before and behind each part (Arcee AI 2025).

Three of four layers have windows, and the others are not told positions. Experts as in DeepSeek V3.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, deepseek_gguf, gguf_keys
from llm_serving.architectures.decoder import Kind, Scales
from llm_serving.architectures.decoder_shape import (
    GGUF_NORMS_BEHIND,
    Defaults,
    Names,
    Shape,
    read_names,
    read_shape,
)
from llm_serving.architectures.experts import ExpertNames, ExpertSizes, SharedNames
from llm_serving.architectures.layer_kinds import global_layers
from llm_serving.architectures.shared_experts import believed_scale, mixture_plan
from llm_serving.checkpoints import Checkpoint
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(context=16384)
_GLOBAL_EVERY = 4  # layers; the last of four sees everything


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases, experts in groups, or a size that is missing."""
    shape = read_shape(checkpoint, _DEFAULTS)
    return (_of_gguf if checkpoint.format == "gguf" else _of_config)(checkpoint, shape)


def _of_gguf(checkpoint: Checkpoint, shape: Shape) -> ModelPlan:
    everything = global_layers(checkpoint, shape.layers, _GLOBAL_EVERY)
    kind = Kind(
        output_gate="blk.{i}.attn_gate",
        head_norm=True,
        experts=deepseek_gguf.experts_of(checkpoint),
        norms_behind=GGUF_NORMS_BEHIND,
        scales=Scales(words=shape.hidden**0.5),
        window=gguf_keys.positive(checkpoint, "attention.sliding_window"),
        open=everything,
        still=everything,
    )
    return mixture_plan(checkpoint, read_names(checkpoint), shape, kind)


def _of_config(checkpoint: Checkpoint, shape: Shape) -> ModelPlan:
    config_json.require(checkpoint, "attention_bias", (False,), False)
    config_json.require(checkpoint, "n_group", (1, None), 1)
    config_json.require(checkpoint, "score_func", ("sigmoid",), "sigmoid")
    config_json.require(checkpoint, "route_norm", (True,), True)
    config_json.require(checkpoint, "mup_enabled", (True, False), False)
    names = read_names(checkpoint)
    period = config_json.positive(checkpoint, "global_attn_every_n_layers", default=_GLOBAL_EVERY)
    everything = global_layers(checkpoint, shape.layers, period)
    kind = Kind(
        output_gate=names.query.replace("q_proj", "gate_proj"),
        head_norm=True,
        experts=(_experts(names), _sizes(checkpoint)),
        norms_behind=(names.ffn_norm, names.ffn_norm.replace("post_attention", "post_mlp")),
        scales=Scales(words=shape.hidden**0.5 if checkpoint.metadata.get("mup_enabled") else 1.0),
        window=config_json.positive(checkpoint, "sliding_window", default=1024),
        open=everything,
        still=everything,
    )
    own = replace(names, ffn_norm=names.ffn_norm.replace("post_attention", "pre_mlp"))
    return mixture_plan(checkpoint, own, shape, kind)


def _experts(names: Names) -> ExpertNames:
    mlp = names.gate.replace("gate_proj", "")
    return ExpertNames(
        router=f"{mlp}router.gate.weight",
        gate=f"{mlp}experts.{{e}}.gate_proj.weight",
        up=f"{mlp}experts.{{e}}.up_proj.weight",
        down=f"{mlp}experts.{{e}}.down_proj.weight",
        correction=f"{mlp}expert_bias",
        shared=SharedNames(
            gate=f"{mlp}shared_experts.gate_proj.weight",
            up=f"{mlp}shared_experts.up_proj.weight",
            down=f"{mlp}shared_experts.down_proj.weight",
        ),
    )


def _sizes(checkpoint: Checkpoint) -> ExpertSizes:
    scale = config_json.number(checkpoint, "route_scale", default=1.0)
    return ExpertSizes(
        count=config_json.positive(checkpoint, "num_experts"),
        used=config_json.positive(checkpoint, "num_experts_per_tok"),
        ffn=config_json.positive(checkpoint, "moe_intermediate_size"),
        normalized=True,
        scores="sigmoid",
        scale=believed_scale(checkpoint, scale),
    )
