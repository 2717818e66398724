"""Phi 3.5 MoE, Phi mini MoE and Phi tiny MoE: norms with biases, experts chosen by SparseMixer.

Abdin et al. 2024, Liu et al. 2024 (arXiv 2409.12136).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, phi3
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_experts import GGUF_NAMES, block_sparse_experts, gguf_sizes
from llm_serving.architectures.decoder_shape import Defaults, read_names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.ops import ModelPlan

_DEFAULTS = Defaults(theta=1000000.0, context=131072)
_JITTER = 0.01  # of routing while training, which says what is near
# Phi 3.5 MoE's own. GGUF files hold what LongRoPE means for such a context, 1.19, in its place.
_MAGNITUDE = 1.243163121016122


def describe(checkpoint: Checkpoint) -> ModelPlan:
    """A GGUF file or a directory.

    Raises: CheckpointError for other than two experts a token, or magnitudes of rotary positions that differ.
    """
    names, shape = read_names(checkpoint), read_shape(checkpoint, _DEFAULTS)
    if checkpoint.format == "gguf":
        own, sizes = GGUF_NAMES, gguf_sizes(checkpoint)
        jitter, magnitude = _JITTER, _MAGNITUDE
    else:
        own, sizes = block_sparse_experts(checkpoint)
        jitter = config_json.number(checkpoint, "router_jitter_noise", default=_JITTER)
        magnitude = _magnitude(checkpoint)
    if sizes.used != 2 or jitter > 1:
        raise CheckpointError(
            f"'{checkpoint.path}' uses {sizes.used} experts for a token, with jitter of {jitter:g}; "
            "two are supported, and jitter up to 1."
        )
    if shape.rope.near:
        shape = replace(shape, rope=replace(shape.rope, magnitude=magnitude))
    kind = Kind(
        qkv_bias=f"{names.query.format(i=0)}.bias" in checkpoint.tensors,
        output_bias=f"{names.output.format(i=0)}.bias" in checkpoint.tensors,
        head_bias=f"{names.head}.bias" in checkpoint.tensors,
        layer_norm=True,
        norm_bias=True,
        window=phi3.window_of(checkpoint, _DEFAULTS),
        experts=(own, replace(sizes, normalized=False, margin=2 * jitter)),
    )
    return plan_of(checkpoint, names, shape, kind)


def _magnitude(checkpoint: Checkpoint) -> float:
    given: Any = checkpoint.metadata.get("rope_parameters") or checkpoint.metadata.get("rope_scaling")
    scaling = replace(checkpoint, metadata=given if isinstance(given, dict) else {})
    near, far = (config_json.number(scaling, f"{part}_mscale", default=1.0) for part in ("short", "long"))
    if near != far:
        raise CheckpointError(
            f"'short_mscale' and 'long_mscale' in the config.json of '{checkpoint.path}' are {near:g} and "
            f"{far:g}; the same is needed."
        )
    return far
