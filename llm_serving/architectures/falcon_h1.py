"""Falcon-H1: attention and Mamba-2 side by side in each layer, on the same rows (TII 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Kind, Scales, plan_of
from llm_serving.architectures.decoder_layer import layer
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.architectures.mamba_layer import (
    ROWS,
    MambaKeys,
    MambaNames,
    mamba_behind,
    mamba_buffers,
    mamba_heads,
    mamba_inputs,
    mamba_names,
)
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.mamba import MambaHeads

_KEYS = MambaKeys()
_DEFAULTS = Defaults(context=8192)
_BELIEVED = (1e-6, 1e6)  # multipliers
_ONES = (1.0,) * 5
_PLAIN = ("attention_bias", "mlp_bias", "projectors_bias")


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """GGUF files have all multipliers in their weights.

    Raises: CheckpointError for a size that is missing, or anything that the engine does not run.
    """
    names, shape = _names(checkpoint), read_shape(checkpoint, _DEFAULTS)
    heads, own = _mamba(checkpoint, names, shape)
    kind, scales, sections = Kind(), dict[str, float](), None
    if checkpoint.format == "huggingface":
        for key in _PLAIN:
            config_json.require(checkpoint, key, (False,), False)
        kind, scales = _multipliers(checkpoint, names, shape, own)
        sections = _sections(checkpoint)

    def own_layer(index: int) -> tuple[ops.Operation, ...]:
        read, inputs, *others = layer(checkpoint, index, names, shape, kind)
        assert isinstance(inputs, ops.Linear)
        both = (*inputs.projections, *mamba_inputs(index, own, heads, sections))
        behind = (*mamba_behind(index, own, heads, shape.epsilon), *others)
        named = {name.format(i=index): scale for name, scale in scales.items()}
        return (read, ops.Linear(both), *(_as_named(op, named, checkpoint) for op in behind))

    plan = plan_of(checkpoint, names, shape, kind, own_layer)
    return replace(
        plan,
        buffers={ROWS: shape.hidden, **mamba_buffers(heads), **plan.buffers},
        state_floats=shape.layers * heads.state_floats,
    )


def _names(checkpoint: Checkpoint) -> Names:
    names = read_names(checkpoint)
    if checkpoint.format == "gguf":
        return names
    layer_name, part = names.gate.split("mlp.gate_proj")[0], "feed_forward."
    return replace(
        names,
        norm=names.words.replace("embed_tokens", "final_layernorm"),
        ffn_norm=f"{layer_name}pre_ff_layernorm",
        gate=f"{layer_name}{part}gate_proj",
        up=f"{layer_name}{part}up_proj",
        down=f"{layer_name}{part}down_proj",
    )


def _mamba(checkpoint: Checkpoint, names: Names, shape: Shape) -> tuple[MambaHeads, MambaNames]:
    """Raises: CheckpointError for a norm in front of the gate, which no published model has."""
    if checkpoint.format == "gguf":
        return mamba_heads(checkpoint, _KEYS), mamba_names(checkpoint, "", _KEYS)
    given: Any = checkpoint.metadata.get("mamba_d_ssm", 1024)
    inner = config_json.positive(checkpoint, "mamba_expand", default=2) * shape.hidden
    if given is not None:
        inner = config_json.positive(checkpoint, "mamba_d_ssm", default=1024)
    config_json.require(checkpoint, "mamba_rms_norm", (True, False), False)
    own = mamba_names(checkpoint, names.query.replace("self_attn.q_proj", "mamba."), _KEYS)
    if checkpoint.metadata.get("mamba_rms_norm", False):
        config_json.require(checkpoint, "mamba_norm_before_gate", (False,), True)
    else:
        own = replace(own, norm=None)
    return mamba_heads(checkpoint, _KEYS, inner), own


def _multipliers(
    checkpoint: Checkpoint, names: Names, shape: Shape, own: MambaNames
) -> tuple[Kind, dict[str, float]]:
    """Those that norms, embeddings and scores take over, and of matrices by the names of their tensors.

    Keys and queries meet in scores only, values behind them only. Raises: CheckpointError.
    """

    def single(key: str) -> float:
        return _believed(checkpoint, key, config_json.number(checkpoint, key, default=1.0))

    before, behind = single("attention_in_multiplier"), single("attention_out_multiplier")
    scales = Scales(
        words=single("embedding_multiplier"),
        scores=before * before * single("key_multiplier") * shape.head_dim**-0.5,
        logits=single("lm_head_multiplier"),
    )
    gate, down = _several(checkpoint, "mlp_multipliers", (1.0, 1.0))
    matrices = {
        f"{names.output}.weight": before * behind,
        own.output: single("ssm_out_multiplier"),
        f"{names.gate}.weight": gate,
        f"{names.down}.weight": down,
    }
    return Kind(scales=scales), matrices


def _sections(checkpoint: Checkpoint) -> tuple[float, ...] | None:
    """Multipliers of what `mamba_inputs` reads, if there are any. Raises: CheckpointError."""
    key = "ssm_in_multiplier"
    before = _believed(checkpoint, key, config_json.number(checkpoint, key, default=1.0))
    sections = tuple(before * own for own in _several(checkpoint, "ssm_multipliers", _ONES))
    return None if sections == _ONES else sections


def _several(checkpoint: Checkpoint, key: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    given: Any = checkpoint.metadata.get(key)
    if given is None:
        return usual
    if not isinstance(given, list) or len(given) != len(usual):
        raise CheckpointError(
            f"'{key}' in the config.json of '{checkpoint.path}' is no list of {len(usual)} numbers."
        )
    return tuple(_believed(checkpoint, key, value) for value in given)


def _believed(checkpoint: Checkpoint, key: str, value: Any) -> float:
    least, most = _BELIEVED
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise CheckpointError(
            f"'{key}' in the config.json of '{checkpoint.path}' is {value!r}; "
            f"from {least:g} to {most:g} is believed."
        )
    return float(value)


def _as_named(operation: ops.Operation, scales: Mapping[str, float], checkpoint: Checkpoint) -> ops.Operation:
    """With the multipliers of its matrices; and GGUF files call this family's second norm without an end."""
    if isinstance(operation, ops.Linear):
        own = tuple(replace(p, scale=scales.get(p.tensor, 1.0)) for p in operation.projections)
        return replace(operation, projections=own)
    if isinstance(operation, ops.Quantize) and operation.weight is not None:
        bare = operation.weight.removesuffix(".weight")
        return replace(operation, weight=bare) if bare in checkpoint.tensors else operation
    return operation
