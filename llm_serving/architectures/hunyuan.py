"""Hunyuan, dense: heads of queries and keys are normed after they rotate (Tencent 2025).

Directories stretch the base of rotary positions by a number alpha, and call that "dynamic"; GGUF files hold
the stretched base.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_MOST = 1e6


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """Raises: CheckpointError for biases, layers that share keys, or an alpha that no model has."""
    names, shape = names_and_shape(checkpoint)
    return plan_of(checkpoint, names, shape, Kind(rotated_norm=True))


def names_and_shape(checkpoint: Checkpoint) -> tuple[Names, Shape]:
    """Of a dense model or a mixture. Raises: as `describe`."""
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        return names, read_shape(checkpoint, Defaults())
    for key in ("attention_bias", "mlp_bias", "use_cla"):
        config_json.require(checkpoint, key, (False, None), False)
    config_json.require(checkpoint, "use_qk_norm", (True,), True)
    names = replace(
        names,
        query_norm=names.query_norm.replace("q_norm", "query_layernorm"),
        key_norm=names.key_norm.replace("k_norm", "key_layernorm"),
    )
    return names, _stretched(checkpoint)


def _stretched(checkpoint: Checkpoint) -> Shape:
    """The sizes of a directory. Without an alpha "dynamic" is another scaling, refused as elsewhere."""
    key = "rope_parameters" if checkpoint.metadata.get("rope_parameters") else "rope_scaling"
    given: Any = checkpoint.metadata.get(key)
    scaling = given.get("rope_type", given.get("type")) if isinstance(given, dict) else None
    if scaling != "dynamic" or given.get("alpha") is None:
        return read_shape(checkpoint, Defaults())
    alpha = config_json.number(replace(checkpoint, metadata=given), "alpha", default=1.0)
    if not 1 <= alpha <= _MOST:
        raise CheckpointError(
            f"The rotary alpha in the config.json of '{checkpoint.path}' is {alpha:g}: no model has that."
        )
    plain = {**checkpoint.metadata, key: {**given, "rope_type": "default"}}
    shape = read_shape(replace(checkpoint, metadata=plain), Defaults())
    theta = shape.rope.theta * alpha ** (shape.head_dim / (shape.head_dim - 2))
    return replace(shape, rope=replace(shape.rope, theta=theta))
