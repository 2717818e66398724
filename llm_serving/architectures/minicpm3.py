"""MiniCPM3: latent attention in a llama with scales for words, parts and logits (OpenBMB 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, deepseek_gguf, gguf_keys
from llm_serving.architectures.decoder import Kind, Scales, plan_of
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.architectures.deepseek import latent_names, multiple
from llm_serving.architectures.granite import believed
from llm_serving.architectures.latent_attention import (
    LatentNames,
    LatentSizes,
    check_tensors,
    latent_layer,
    with_buffers,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(context=32768)
_WORDS, _DEPTH, _BASE = 12.0, 1.4, 256  # GGUF files do not say them


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """A GGUF file or a directory.

    Raises: CheckpointError for biases, or sizes that are missing or do not fit each other.
    """
    names = read_names(checkpoint)
    read = _of_gguf if checkpoint.format == "gguf" else _of_config
    own, sizes, shape, scales = read(checkpoint, names)
    kind = Kind(scales=believed(checkpoint, scales))
    check_tensors(checkpoint, own, sizes, names.output)
    # Rows are kept divided by `parts`, as in `plan_of`.
    within = replace(shape, epsilon=shape.epsilon / scales.parts**2)
    plan = plan_of(
        checkpoint,
        names,
        shape,
        kind,
        lambda i: latent_layer(checkpoint, i, own, sizes, names, within, kind),
    )
    return with_buffers(plan, sizes)


_Read = tuple[LatentNames, LatentSizes, Shape, Scales]


def _of_gguf(checkpoint: Checkpoint, names: Names) -> _Read:
    shape = read_shape(checkpoint, _DEFAULTS)
    rotated = deepseek_gguf.multiple(checkpoint, "rope.dimension_count")
    sizes = LatentSizes(
        heads=shape.heads,
        latent=deepseek_gguf.multiple(checkpoint, "attention.kv_lora_rank"),
        plain=_plain(checkpoint, shape.head_dim - rotated),
        rotated=rotated,
        values=gguf_keys.positive(checkpoint, "attention.value_length", shape.hidden // shape.heads),
        query_latent=deepseek_gguf.multiple(checkpoint, "attention.q_lora_rank"),
    )
    scales = _scales(shape, _WORDS, _DEPTH, _BASE)
    return deepseek_gguf.names_of(checkpoint), *_fit(sizes, shape), scales


def _of_config(checkpoint: Checkpoint, names: Names) -> _Read:
    for key in ("attention_bias", "mlp_bias"):
        config_json.require(checkpoint, key, (False,), False)
    metadata: Any = checkpoint.metadata
    rotated = multiple(checkpoint, "qk_rope_head_dim")
    shape = read_shape(replace(checkpoint, metadata={**metadata, "head_dim": rotated}), _DEFAULTS)
    has_query_latent = metadata.get("q_lora_rank") is not None
    own_values = metadata.get("v_head_dim") is not None
    sizes = LatentSizes(
        heads=shape.heads,
        latent=multiple(checkpoint, "kv_lora_rank"),
        plain=multiple(checkpoint, "qk_nope_head_dim"),
        rotated=rotated,
        values=config_json.positive(checkpoint, "v_head_dim") if own_values else shape.hidden // shape.heads,
        query_latent=multiple(checkpoint, "q_lora_rank") if has_query_latent else 0,
    )
    # Null stands for no scale.
    usual = {"scale_depth": shape.layers**0.5, "dim_model_base": shape.hidden}
    nulls = {key: value for key, value in usual.items() if metadata.get(key, value) is None}
    given = replace(checkpoint, metadata={**metadata, **nulls})
    scales = _scales(
        shape,
        config_json.number(given, "scale_emb", default=_WORDS),
        config_json.number(given, "scale_depth", default=_DEPTH),
        config_json.number(given, "dim_model_base", default=_BASE),
    )
    return latent_names(names, has_query_latent), *_fit(sizes, shape), scales


def _scales(shape: Shape, words: float, depth: float, base: float) -> Scales:
    return Scales(words=words, parts=depth / shape.layers**0.5, logits=base / shape.hidden)


def _fit(sizes: LatentSizes, shape: Shape) -> tuple[LatentSizes, Shape]:
    """Heads share one key, rotated as halves."""
    sizes = replace(sizes, scale=sizes.query**-0.5, in_pairs=False)
    return sizes, replace(shape, kv_heads=1, head_dim=sizes.key)


def _plain(checkpoint: Checkpoint, size: int) -> int:
    if size <= 0 or size % 32:
        raise CheckpointError(
            f"Heads of '{checkpoint.path}' have {size} dimensions that do not rotate; "
            "the engine needs a multiple of 32."
        )
    return size
