"""Nemotron-H: each layer is one part, Mamba-2, attention without positions, squared relu, or a mixture of it.

NVIDIA 2025: Nemotron-H, Nemotron Nano 2, Nemotron 3 Nano.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import Kind, plan_of
from llm_serving.architectures.decoder_shape import LAYER_NORM, Defaults, Names, Shape, read_shape
from llm_serving.architectures.experts import SQUARED_RELU, mixture
from llm_serving.architectures.mamba_layer import (
    ROWS,
    MambaKeys,
    mamba_buffers,
    mamba_heads,
    mamba_layer,
    mamba_names,
)
from llm_serving.architectures.nemotron_h_parts import (
    ATTENTION,
    MAMBA,
    MIXTURE,
    experts_of,
    kinds_of,
    names_of,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

_KEYS = MambaKeys(
    heads="mamba_num_heads",
    dim="mamba_head_dim",
    groups="n_groups",
    state="ssm_state_size",
    taps="conv_kernel",
    conv_bias="use_conv_bias",
)
_DEFAULTS = Defaults(
    context=4096,
    activation=("mlp_hidden_act", "relu2"),
    epsilons=("layer_norm_epsilon", "attention.layer_norm_rms_epsilon"),
)
# Of a config.json: there are no positions, and a head that is there is used whatever it says.
_UNREAD = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "tie_word_embeddings")
_BIASED = (".attn_q.bias", ".attn_output.bias", ".ffn_up.bias", ".ffn_down.bias")


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    _require_plain(checkpoint)
    checkpoint = _read(checkpoint)
    kinds = kinds_of(checkpoint)
    if ATTENTION not in kinds or MAMBA not in kinds:
        raise CheckpointError(
            f"Layers of '{checkpoint.path}' are {', '.join(sorted(set(kinds)))}; the engine needs some of "
            "attention and some of Mamba."
        )
    names, shape = names_of(checkpoint), _shape(checkpoint, len(kinds))
    heads = mamba_heads(checkpoint, _KEYS)
    own = mamba_names(checkpoint, "" if checkpoint.format == "gguf" else _mixer(names), _KEYS)
    kind = Kind(gated=False)
    if MIXTURE in kinds:
        dense = frozenset(i for i, name in enumerate(kinds) if name != MIXTURE)
        kind = replace(kind, experts=experts_of(checkpoint, names), dense=dense)
    parts: dict[str, Callable[[int], tuple[ops.Operation, ...]]] = {
        MAMBA: lambda i: mamba_layer(i, names.input_norm, own, heads, (shape.epsilon, shape.epsilon)),
        ATTENTION: lambda i: _attention(i, kinds[:i].count(ATTENTION), names, shape),
        MIXTURE: lambda i: _experts(checkpoint, i, names, shape, kind),
    }

    def layer(index: int) -> tuple[ops.Operation, ...]:
        part = parts.get(kinds[index])
        return part(index) if part else _feed_forward(index, names, shape)

    plan = plan_of(checkpoint, names, shape, kind, layer)
    return replace(
        plan,
        kv=plan.kv[: kinds.count(ATTENTION)],
        buffers={ROWS: shape.hidden, **mamba_buffers(heads), **plan.buffers},
        state_floats=kinds.count(MAMBA) * heads.state_floats,
    )


def _require_plain(checkpoint: Checkpoint) -> None:
    """Raises: CheckpointError for biases, windows, or experts behind a smaller row."""
    if checkpoint.format == "gguf":
        biased = next((name for name in sorted(checkpoint.tensors) if name.endswith(_BIASED)), None)
        if biased is not None:
            raise CheckpointError(
                f"'{checkpoint.path}' has a tensor '{biased}'; the engine runs none with it."
            )
        for key in ("moe_latent_size", "attention.sliding_window"):
            if not gguf_keys.is_zero(checkpoint, key):
                raise gguf_keys.problem(checkpoint, key, checkpoint.hyper(key), "it is not supported")
        return
    for key in ("attention_bias", "mlp_bias", "use_bias"):
        config_json.require(checkpoint, key, (False,), False)
    config_json.require(checkpoint, "mamba_hidden_act", ("silu",), "silu")
    for key in ("sliding_window", "moe_latent_size"):
        config_json.require(checkpoint, key, (None,), None)


def _read(checkpoint: Checkpoint) -> Checkpoint:
    """Without what is not: settings, and layers of a directory that draft tokens (MTP)."""
    if checkpoint.format == "gguf":
        return checkpoint
    tensors = {name: each for name, each in checkpoint.tensors.items() if not name.startswith("mtp.")}
    metadata = {key: value for key, value in checkpoint.metadata.items() if key not in _UNREAD}
    return replace(checkpoint, metadata=metadata, tensors=tensors)


def _shape(checkpoint: Checkpoint, layers: int) -> Shape:
    """With sizes under the keys that other decoders have them under; nothing rotates."""
    metadata: dict[str, Any] = dict(checkpoint.metadata)
    if checkpoint.format == "gguf":
        family = checkpoint.architecture
        metadata = {key: value for key, value in metadata.items() if not key.startswith(f"{family}.rope.")}
        for key in ("attention.head_count_kv", "feed_forward_length"):
            metadata[f"{family}.{key}"] = int(checkpoint.hyper(key).max()) or 32
        own, older = f"{family}.{_DEFAULTS.epsilons[1]}", f"{family}.{LAYER_NORM[1]}"
        if own not in metadata and older in metadata:
            metadata[own] = metadata[older]
    else:
        metadata["num_hidden_layers"] = layers
    return replace(read_shape(replace(checkpoint, metadata=metadata), _DEFAULTS), layers=layers)


def _attention(index: int, layer: int, names: Names, shape: Shape) -> tuple[ops.Operation, ...]:
    """`layer` is the cache's."""
    rows = ((names.query, 0), (names.key, shape.queries), (names.value, shape.queries + shape.keys))
    return (
        ops.Quantize(ROWS, _weight(names.input_norm, index), shape.epsilon),
        ops.Linear(tuple(ops.Projection(_weight(name, index), "qkv", offset) for name, offset in rows)),
        ops.RopeStore("qkv", layer, shape.rope.still),
        ops.Attention("qkv", "attention", layer, shape.head_dim**-0.5),
        ops.Quantize("attention"),
        ops.Linear((ops.Projection(_weight(names.output, index), ROWS),), accumulate=True),
    )


def _feed_forward(index: int, names: Names, shape: Shape) -> tuple[ops.Operation, ...]:
    return (
        ops.Quantize(ROWS, _weight(names.input_norm, index), shape.epsilon),
        ops.Linear((ops.Projection(_weight(names.up, index), "gate_up"),)),
        ops.Xielu("gate_up", *SQUARED_RELU),
        ops.Linear((ops.Projection(_weight(names.down, index), ROWS),), accumulate=True),
    )


def _experts(
    checkpoint: Checkpoint, index: int, names: Names, shape: Shape, kind: Kind
) -> tuple[ops.Operation, ...]:
    assert kind.experts is not None
    return (
        ops.Copy(ROWS, "normed"),
        ops.Quantize("normed", _weight(names.input_norm, index), shape.epsilon, keep=True),
        *mixture(checkpoint, *kind.experts, index, "normed"),
    )


def _mixer(names: Names) -> str:
    return names.query.removesuffix("q_proj")


def _weight(name: str, index: int) -> str:
    return f"{name.format(i=index)}.weight"
