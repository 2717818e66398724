"""Llama but for a name, a bias or an activation: Seed-OSS, Helium, AFM, Apertus, Maincoder and others."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from llm_serving.architectures.config_json import require
from llm_serving.architectures.decoder import Kind, describe_decoder, plan_of
from llm_serving.architectures.decoder_shape import Defaults, Names, read_names, read_shape
from llm_serving.architectures.experts import SQUARED_RELU
from llm_serving.architectures.gguf_keys import num_layers, require_gguf
from llm_serving.checkpoints import Checkpoint, dequantize
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import LinearBias, ModelPlan

_SEED = Defaults(epsilon=1e-6, context=524288)
_HELIUM = Defaults(theta=100000.0, epsilon=1e-8, context=4096)
_ARCEE = Defaults(context=4096, activation=("hidden_act", "relu2"))
_APERTUS = Defaults(theta=12000000.0, context=65536, activation=("hidden_act", "xielu"))
_MOST = 1e3
_LAYERS_OF_13B = 40


def describe_seed_oss(checkpoint: Checkpoint) -> ModelPlan:
    """Biases on queries, keys and values (ByteDance 2025). Raises: CheckpointError for others."""
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        names = replace(names, ffn_norm="blk.{i}.post_attention_norm")
        has_bias = f"{names.query.format(i=0)}.bias" in checkpoint.tensors
    else:
        for key in ("attention_out_bias", "mlp_bias"):
            require(checkpoint, key, (False,), False)
        has_bias = bool(checkpoint.metadata.get("attention_bias", True))
    return plan_of(checkpoint, names, read_shape(checkpoint, _SEED), Kind(qkv_bias=has_bias))


def describe_helium(checkpoint: Checkpoint) -> ModelPlan:
    """A directory of Helium, with rotary pairs (Kyutai 2025). Raises: CheckpointError for biases."""
    _require_no_biases(checkpoint)
    return describe_decoder(checkpoint, Kind(interleaved=True), _HELIUM)


def describe_arcee(checkpoint: Checkpoint) -> ModelPlan:
    """AFM: squares of relu, no gates (Arcee AI 2025). Raises: CheckpointError for biases."""
    _require_no_biases(checkpoint)
    shape = read_shape(checkpoint, _ARCEE)
    kind = Kind(interleaved=checkpoint.format == "gguf", gated=False, bends=(SQUARED_RELU,) * shape.layers)
    return plan_of(checkpoint, read_names(checkpoint), shape, kind)


def describe_apertus(checkpoint: Checkpoint) -> ModelPlan:
    """Normed heads, and xIELU with numbers of each layer (Hernández-Cano et al. 2025).

    Raises: CheckpointError for biases, or numbers of no activation.
    """
    names = read_names(checkpoint)
    if checkpoint.format != "gguf":
        require(checkpoint, "attention_bias", (False,), False)
        names = replace(
            names,
            input_norm=names.input_norm.replace("input_", "attention_"),
            ffn_norm=names.ffn_norm.replace("post_attention_", "feedforward_"),
        )
    shape = read_shape(checkpoint, _APERTUS)
    bends = tuple(_bend(checkpoint, names, i) for i in range(shape.layers))
    return plan_of(checkpoint, names, shape, Kind(head_norm=True, gated=False, bends=bends))


def describe_baichuan(checkpoint: Checkpoint) -> ModelPlan:
    """A GGUF file of Baichuan 1 or 2 (Yang et al. 2023): 7 B rotate, scores of 13 B fall with the distance.

    Raises: CheckpointError for a directory.
    """
    require_gguf(checkpoint)
    names, shape, kind = read_names(checkpoint), read_shape(checkpoint, Defaults()), Kind(interleaved=True)
    if shape.layers == _LAYERS_OF_13B:  # files do not say it otherwise
        everything = frozenset(range(shape.layers))
        kind = Kind(interleaved=True, still=everything, falling=LinearBias(shape.heads))
    return plan_of(checkpoint, names, shape, kind)


def describe_maincoder(checkpoint: Checkpoint) -> ModelPlan:
    """A GGUF file of Maincoder, whose heads are normed after they rotate (Maincode 2025).

    Raises: CheckpointError for a directory.
    """
    require_gguf(checkpoint)
    return describe_decoder(checkpoint, Kind(rotated_norm=True, interleaved=True))


def _bend(checkpoint: Checkpoint, names: Names, index: int) -> tuple[float, float, float]:
    """Numbers of a layer's xIELU. A smallest x that keeps gradients alive is 1e-6, which is nothing here."""

    def value(key: str, default: float | None = None) -> float:
        if checkpoint.format == "gguf":
            given = np.asarray(checkpoint.metadata.get(f"xielu.{key}", ())).reshape(-1)
            found = given[index % len(given)] if len(given) in (1, num_layers(checkpoint)) else math.nan
        else:
            name = f"{names.up.replace('up_proj', 'act_fn').format(i=index)}.{key}"
            if default is not None and name not in checkpoint.tensors:
                return default
            found = dequantize(checkpoint.tensor(name)).reshape(-1)[0]
        if not abs(float(found)) <= _MOST:
            raise CheckpointError(
                f"'{key}' of the activation of layer {index} in '{checkpoint.path}' is {found}."
            )
        return float(found)

    beta = value("beta", 0.5)
    return _softplus(value("alpha_p")), beta + _softplus(value("alpha_n")), beta


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _require_no_biases(checkpoint: Checkpoint) -> None:
    if checkpoint.format != "gguf":
        for key in ("attention_bias", "mlp_bias"):
            require(checkpoint, key, (False,), False)
