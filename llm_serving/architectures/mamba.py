"""Mamba, Falcon Mamba and Mamba-2: no layer attends, and none has a feed-forward part.

Gu & Dao 2023, TII 2024, Dao & Gu 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder_shape import Names, is_tied
from llm_serving.architectures.mamba_layer import (
    ROWS,
    MambaKeys,
    mamba_buffers,
    mamba_heads,
    mamba_layer,
    mamba_names,
)
from llm_serving.architectures.nemotron_h_parts import names_of
from llm_serving.architectures.selective_layer import (
    SelectiveKeys,
    selective_buffers,
    selective_layer,
    selective_names,
    selective_sizes,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

_KEYS = SelectiveKeys()
_KEYS_2 = MambaKeys(
    heads="num_heads",
    dim="head_dim",
    groups="n_groups",
    state="state_size",
    taps="conv_kernel",
    conv_bias="use_conv_bias",
    proj_bias="use_bias",
)
_CONTEXT = 1 << 20  # as conversion writes it: a state has no end
_NORM_EPSILON = 1e-6  # of Falcon Mamba's steps, B and C, which GGUF files do not say


@dataclass(frozen=True, slots=True)
class _Shape:
    hidden: int
    layers: int
    context: int
    epsilon: float


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Mamba, and Falcon Mamba, which in GGUF files is one with norms of steps, B and C without weights.

    Raises: CheckpointError for a size that is missing, or anything that the engine does not run.
    """
    names, shape = names_of(checkpoint), _shape(checkpoint)
    sizes = selective_sizes(checkpoint, _KEYS, shape.hidden)
    own = selective_names(checkpoint, _mixer(names), _KEYS)
    if checkpoint.format == "gguf":
        are_normed = checkpoint.hyper("ssm.dt_b_c_rms", False)
        if not isinstance(are_normed, bool):
            raise gguf_keys.problem(checkpoint, "ssm.dt_b_c_rms", are_normed, "yes or no is needed")
        sizes = replace(sizes, epsilon=_NORM_EPSILON if are_normed else None)
    elif checkpoint.architecture == "falcon_mamba":
        epsilon = config_json.number(checkpoint, "mixer_rms_eps", default=_NORM_EPSILON)
        sizes = replace(sizes, epsilon=epsilon)
    return _plan(
        checkpoint,
        names,
        shape,
        lambda i: selective_layer(i, names.input_norm, own, sizes, shape.epsilon),
        selective_buffers(sizes),
        sizes.channels.state_floats,
    )


def describe_2(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Mamba-2. Raises: CheckpointError as `describe`."""
    names, shape = names_of(checkpoint), _shape(checkpoint)
    inner = None
    if checkpoint.format == "huggingface":
        inner = config_json.positive(checkpoint, "expand", default=2) * shape.hidden
    heads = mamba_heads(checkpoint, _KEYS_2, inner)
    own = mamba_names(checkpoint, _mixer(names), _KEYS_2)
    return _plan(
        checkpoint,
        names,
        shape,
        lambda i: mamba_layer(i, names.input_norm, own, heads, (shape.epsilon, shape.epsilon)),
        mamba_buffers(heads),
        heads.state_floats,
    )


def _shape(checkpoint: Checkpoint) -> _Shape:
    if checkpoint.format == "gguf":
        shape = _Shape(
            hidden=gguf_keys.positive(checkpoint, "embedding_length"),
            layers=gguf_keys.num_layers(checkpoint),
            context=gguf_keys.positive(checkpoint, "context_length", _CONTEXT),
            epsilon=gguf_keys.number(checkpoint, "attention.layer_norm_rms_epsilon", 1e-5),
        )
    else:
        config_json.require(checkpoint, "hidden_act", ("silu",), "silu")
        shape = _Shape(
            hidden=config_json.positive(checkpoint, "hidden_size"),
            layers=config_json.num_layers(checkpoint, "num_hidden_layers"),
            context=config_json.positive(checkpoint, "max_position_embeddings", default=_CONTEXT),
            epsilon=config_json.number(checkpoint, "layer_norm_epsilon", default=1e-5),
        )
    if shape.hidden % 32:
        raise CheckpointError(
            f"The hidden size of '{checkpoint.path}' is {shape.hidden}; the engine needs a multiple of 32."
        )
    return shape


def _mixer(names: Names) -> str:
    return names.query.removesuffix("q_proj")


def _plan(
    checkpoint: Checkpoint,
    names: Names,
    shape: _Shape,
    layer: Callable[[int], tuple[ops.Operation, ...]],
    buffers: dict[str, int],
    state_floats: int,
) -> ops.ModelPlan:
    """`state_floats` are a layer's."""
    words = f"{names.words}.weight"
    vocab = checkpoint.tensor(words).shape[0]
    head = words if is_tied(checkpoint, names) else f"{names.head}.weight"
    return ops.ModelPlan(
        vocab_size=vocab,
        max_context=shape.context,
        query_heads=1,
        kv=(),
        rope=ops.Rope(10000.0, 2),
        buffers={ROWS: shape.hidden, **buffers, "last": shape.hidden, "logits": vocab},
        operations=(
            ops.Embed(words, ROWS),
            *(op for i in range(shape.layers) for op in layer(i)),
            ops.SelectRows(ROWS, "last"),
            ops.Quantize("last", f"{names.norm}.weight", shape.epsilon),
            ops.Linear((ops.Projection(head, "logits"),)),
        ),
        state_floats=shape.layers * state_floats,
    )
