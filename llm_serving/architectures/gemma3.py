"""Gemma 3, text only: windows in five of six layers, norms before and behind each part.

Gemma Team 2025. Directories hold what norms differ from one by; GGUF files hold the norms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.architectures.decoder import add_normed, plan_of
from llm_serving.architectures.decoder_shape import Defaults, Names, Shape, read_names, read_shape
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"  # kinds of layers, as config.json has them
_DEFAULTS = Defaults(
    theta=1000000.0,
    epsilon=1e-6,
    context=32768,
    activation=("hidden_activation", "gelu_pytorch_tanh"),
    kind=_GLOBAL,
)
_LOCAL_THETA = 10000.0
_GLOBAL_EVERY = 6  # layers; the last of six sees everything
_LARGEST = 62  # layers of the 27 B model, which scales queries by its width
# What a config.json may say and nothing here computes: softer scores and logits, attention to what comes.
_ABSENT = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
    "attention_bias",
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the layers of a model differ from those of other decoders, and from one another."""

    behind_attention: str  # norms, as in `Names`
    behind_ffn: str
    query_scale: float
    window: int
    local: ops.Rope
    is_global: tuple[bool, ...]


def describe(checkpoint: Checkpoint) -> ops.ModelPlan:
    """Raises: CheckpointError for a size that is missing, or anything that the engine does not run."""
    if checkpoint.format == "huggingface" and "text_config" in checkpoint.metadata:
        raise CheckpointError(
            f"'{checkpoint.path}' reads images, too; the engine runs Gemma 3's text models."
        )
    shape, names = read_shape(checkpoint, _DEFAULTS), read_names(checkpoint)
    if checkpoint.format == "gguf":
        kind = _of_gguf(checkpoint, shape)
    else:
        kind = _of_config(checkpoint, names, shape)
        names = replace(names, ffn_norm=names.ffn_norm.replace("post_attention", "pre_feedforward"))
    return plan_of(
        checkpoint,
        names,
        shape,
        [_layer(i, names, shape, kind) for i in range(shape.layers)],
        word_scale=shape.hidden**0.5,
        more_buffers={"part": shape.hidden},
        norm_offset=0.0 if checkpoint.format == "gguf" else 1.0,
    )


def _of_gguf(checkpoint: Checkpoint, shape: Shape) -> _Kind:
    width = shape.hidden // shape.heads if shape.layers == _LARGEST else shape.head_dim
    return _Kind(
        behind_attention="blk.{i}.post_attention_norm",
        behind_ffn="blk.{i}.post_ffw_norm",
        query_scale=width**-0.5,
        window=gguf_keys.positive(checkpoint, "attention.sliding_window", 512),
        local=ops.Rope(gguf_keys.number(checkpoint, "rope.freq_base_swa", _LOCAL_THETA), shape.rope.rotated),
        is_global=_every(_GLOBAL_EVERY, shape.layers),
    )


def _of_config(checkpoint: Checkpoint, names: Names, shape: Shape) -> _Kind:
    for key in _ABSENT:
        config_json.require(checkpoint, key, (None, False), None)
    theta = config_json.rope_theta(checkpoint, "rope_local_base_freq", default=_LOCAL_THETA, kind=_LOCAL)
    return _Kind(
        behind_attention=names.ffn_norm,
        behind_ffn=names.ffn_norm.replace("post_attention", "post_feedforward"),
        query_scale=config_json.number(checkpoint, "query_pre_attn_scalar", default=256.0) ** -0.5,
        window=config_json.positive(checkpoint, "sliding_window", default=4096),
        local=ops.Rope(theta, shape.rope.rotated),
        is_global=_global_layers(checkpoint, shape.layers),
    )


def _global_layers(checkpoint: Checkpoint, layers: int) -> tuple[bool, ...]:
    """Which layers see everything; older files give the period only."""
    kinds = checkpoint.metadata.get("layer_types")
    if kinds is None:
        keys = ("sliding_window_pattern", "_sliding_window_pattern")
        return _every(config_json.positive(checkpoint, *keys, default=_GLOBAL_EVERY), layers)
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or not all(kind in (_LOCAL, _GLOBAL) for kind in kinds)
    ):
        raise CheckpointError(
            f"'layer_types' in the config.json of '{checkpoint.path}' is no list of {layers} times "
            f"'{_LOCAL}' or '{_GLOBAL}'."
        )
    return tuple(kind == _GLOBAL for kind in kinds)


def _every(period: int, layers: int) -> tuple[bool, ...]:
    return tuple(i % period == period - 1 for i in range(layers))


def _layer(i: int, names: Names, shape: Shape, kind: _Kind) -> tuple[ops.Operation, ...]:
    epsilon, is_global = shape.epsilon, kind.is_global[i]

    def of(name: str) -> str:
        return f"{name.format(i=i)}.weight"

    return (
        ops.Quantize("x", of(names.input_norm), epsilon),
        ops.Linear(
            (
                ops.Projection(of(names.query), "qkv"),
                ops.Projection(of(names.key), "qkv", shape.queries),
                ops.Projection(of(names.value), "qkv", shape.queries + shape.keys),
            )
        ),
        ops.HeadNorm("qkv", 0, shape.queries, shape.heads, of(names.query_norm), epsilon),
        ops.HeadNorm("qkv", shape.queries, shape.keys, shape.kv_heads, of(names.key_norm), epsilon),
        ops.RopeStore("qkv", i, None if is_global else kind.local),
        ops.Attention("qkv", "attention", i, kind.query_scale, 0 if is_global else kind.window),
        ops.Quantize("attention"),
        ops.Linear((ops.Projection(of(names.output), "part"),)),
        *add_normed(of(kind.behind_attention), epsilon),
        ops.Quantize("x", of(names.ffn_norm), epsilon),
        ops.Linear(
            (ops.Projection(of(names.gate), "gate_up"), ops.Projection(of(names.up), "gate_up", shape.ffn))
        ),
        ops.Gated("gate_up", shape.ffn, "gelu_tanh"),
        ops.Linear((ops.Projection(of(names.down), "part"),)),
        *add_normed(of(kind.behind_ffn), epsilon),
    )
