"""OPT and GPT-Neo: GPT-2 with queries, keys and values apart (Zhang et al. 2022, Black et al. 2021)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Scales, plan_of
from llm_serving.architectures.decoder_shape import Names, head_of
from llm_serving.architectures.gpt2 import gpt2_names
from llm_serving.architectures.older_config import BIASED, in_usual_words, read_older, without_rotation
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_OFFSET = 2  # rows of OPT's positions before the first one


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Relu, and positions from the third on. Raises: CheckpointError for norms behind parts (OPT 350M)."""
    config_json.require(checkpoint, "do_layer_norm_before", (True,), True)
    config_json.require(checkpoint, "_remove_final_layer_norm", (False,), False)
    for key in ("enable_bias", "layer_norm_elementwise_affine"):
        config_json.require(checkpoint, key, (True,), True)
    usual = in_usual_words(checkpoint)
    shape, kind = read_older(usual, replace(BIASED, positions=_OFFSET), context=2048, activation="relu")
    width = checkpoint.metadata.get("word_embed_proj_dim")
    if width is not None and width != shape.hidden:
        raise CheckpointError(
            f"'word_embed_proj_dim' in the config.json of '{checkpoint.path}' is {width!r}; "
            f"supported: {shape.hidden}, the hidden size."
        )
    return plan_of(usual, _opt_names(checkpoint), shape, without_rotation(kind, shape))


def _opt_names(checkpoint: Checkpoint) -> Names:
    prefix = config_json.before(checkpoint, "embed_tokens.weight")
    layer = prefix + "layers.{i}."
    return Names(
        words=f"{prefix}embed_tokens",
        positions=f"{prefix}embed_positions",
        input_norm=f"{layer}self_attn_layer_norm",
        query=f"{layer}self_attn.q_proj",
        key=f"{layer}self_attn.k_proj",
        value=f"{layer}self_attn.v_proj",
        output=f"{layer}self_attn.out_proj",
        ffn_norm=f"{layer}final_layer_norm",
        up=f"{layer}fc1",
        down=f"{layer}fc2",
        norm=f"{prefix}final_layer_norm",
        head=head_of(checkpoint) or "lm_head",
    )


def describe_neo(checkpoint: Checkpoint) -> ModelPlan:
    """Some layers have windows, scores are not scaled. Raises: CheckpointError for other kinds of layers."""
    usual = in_usual_words(checkpoint)
    kind = replace(BIASED, qkv_bias=False, positions=0, scales=Scales(scores=1.0))
    shape, kind = read_older(usual, kind, context=2048, activation="gelu_new")
    kinds = _layer_kinds(checkpoint, shape.layers)
    kind = replace(
        kind,
        window=config_json.positive(usual, "window_size", default=256),
        open=frozenset(i for i, each in enumerate(kinds) if each == "global"),
    )
    return plan_of(usual, _neo_names(checkpoint), shape, without_rotation(kind, shape))


def _layer_kinds(checkpoint: Checkpoint, layers: int) -> list[str]:
    """Of each layer, from lists of kinds and how often each list comes."""
    given: Any = checkpoint.metadata.get("attention_types", [[["global", "local"], layers // 2]])
    kinds: list[str] = []
    for each in given if isinstance(given, list) else ():
        match each:
            case [[*some], int(times)] if 0 <= times <= layers:
                kinds += some * times
    if len(kinds) != layers or any(kind not in ("global", "local") for kind in kinds):
        raise CheckpointError(
            f"'attention_types' in the config.json of '{checkpoint.path}' does not say global or local "
            f"{layers} times."
        )
    return kinds


def _neo_names(checkpoint: Checkpoint) -> Names:
    names = gpt2_names(checkpoint)
    layer = names.input_norm.removesuffix("ln_1")
    return replace(
        names,
        query=f"{layer}attn.attention.q_proj",
        key=f"{layer}attn.attention.k_proj",
        value=f"{layer}attn.attention.v_proj",
        output=f"{layer}attn.attention.out_proj",
    )
