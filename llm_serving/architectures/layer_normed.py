"""Decoders whose norms subtract the mean (Ba et al. 2016): StarCoder2, StableLM 2, Nemotron, OLMo, Orion."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import LAYER_NORM, Defaults, read_names, read_shape
from llm_serving.architectures.experts import SQUARED_RELU
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_STARCODER = Defaults(
    context=4096,
    epsilons=("norm_epsilon", LAYER_NORM[1]),
    activation=("hidden_act", "gelu_pytorch_tanh"),
)
_STABLELM = Defaults(context=4096, epsilons=LAYER_NORM, rotated=0.25)
_NEMOTRON = Defaults(
    context=4096, epsilons=("norm_eps", LAYER_NORM[1]), activation=("hidden_act", "relu2"), rotated=0.5
)
_OLMO = Defaults(epsilons=LAYER_NORM)
_ORION = Defaults(context=4096, epsilons=("rms_norm_eps", LAYER_NORM[1]))


def describe_starcoder2(checkpoint: Checkpoint) -> ModelPlan:
    """Biases everywhere (Lozhkov et al. 2024). Raises: CheckpointError for a window of no tokens."""
    names, window = read_names(checkpoint), 0
    if checkpoint.format != "gguf":
        config_json.require(checkpoint, "use_bias", (True,), True)
        mlp = names.up.replace("up_proj", "")
        names = replace(names, up=f"{mlp}c_fc", down=f"{mlp}c_proj")
        if checkpoint.metadata.get("sliding_window") is not None:
            window = config_json.positive(checkpoint, "sliding_window")
    kind = Kind(
        qkv_bias=True,
        output_bias=True,
        ffn_bias=True,
        layer_norm=True,
        norm_bias=True,
        gated=False,
        activation="gelu_tanh",
        window=window,
    )
    return plan_of(checkpoint, names, read_shape(checkpoint, _STARCODER), kind)


def describe_stablelm(checkpoint: Checkpoint) -> ModelPlan:
    """A quarter of each head rotates (Bellagamba et al. 2024). Raises: CheckpointError for normed heads."""
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        parallel = bool(checkpoint.hyper("use_parallel_residual", False))
        has_bias = f"{names.query.format(i=0)}.bias" in checkpoint.tensors
        if f"{names.query_norm.format(i=0)}.weight" in checkpoint.tensors:
            raise CheckpointError(
                f"Heads of '{checkpoint.path}' are normed one by one, which is not supported."
            )
    else:
        config_json.require(checkpoint, "qk_layernorm", (False,), False)
        parallel = bool(checkpoint.metadata.get("use_parallel_residual", False))
        has_bias = bool(checkpoint.metadata.get("use_qkv_bias", False))
    kind = Kind(qkv_bias=has_bias, layer_norm=True, norm_bias=True, parallel=parallel)
    return plan_of(checkpoint, names, read_shape(checkpoint, _STABLELM), kind)


def describe_nemotron(checkpoint: Checkpoint) -> ModelPlan:
    """Squares of relu; directories hold what norms differ from one by (Parmar et al. 2024).

    Raises: CheckpointError for biases of matrices.
    """
    if checkpoint.format != "gguf":
        for key in ("attention_bias", "mlp_bias"):
            config_json.require(checkpoint, key, (False,), False)
    shape = read_shape(checkpoint, _NEMOTRON)
    kind = Kind(
        layer_norm=True,
        norm_bias=True,
        norm_offset=0.0 if checkpoint.format == "gguf" else 1.0,
        gated=False,
        bends=(SQUARED_RELU,) * shape.layers,
    )
    return plan_of(checkpoint, read_names(checkpoint), shape, kind)


def describe_olmo(checkpoint: Checkpoint) -> ModelPlan:
    """Norms without weights (Groeneveld et al. 2024). Raises: CheckpointError for biases."""
    clip = 0.0
    if checkpoint.format == "gguf":
        if checkpoint.hyper("attention.clamp_kqv"):
            clip = gguf_keys.number(checkpoint, "attention.clamp_kqv", 0.0)
    else:
        config_json.require(checkpoint, "attention_bias", (False,), False)
        if checkpoint.metadata.get("clip_qkv") is not None:
            clip = config_json.number(checkpoint, "clip_qkv", default=0.0)
    names = replace(read_names(checkpoint), input_norm="", ffn_norm="", norm="")
    kind = Kind(layer_norm=True, interleaved=checkpoint.format == "gguf", clip=clip)
    return plan_of(checkpoint, names, read_shape(checkpoint, _OLMO), kind)


def describe_orion(checkpoint: Checkpoint) -> ModelPlan:
    """Llama but for its norms (Orion 2024). Raises: CheckpointError when a size is missing."""
    kind = Kind(layer_norm=True, norm_bias=True)
    return plan_of(checkpoint, read_names(checkpoint), read_shape(checkpoint, _ORION), kind)
