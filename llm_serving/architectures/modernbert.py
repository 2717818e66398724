"""ModernBERT: pre-norm, rotary, gated, sliding windows in two of three layers (Warner et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_serving.architectures import gguf_keys
from llm_serving.architectures.config_json import num_layers, number, positive, prefix_of, require, rope_theta
from llm_serving.architectures.gguf_head import LABELS, ranking_head
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

_ACTIVATIONS = ("gelu", "silu")
_SLIDING, _FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class _Names:
    """Tensor names without `.weight` and `.bias`; those of a layer contain `{i}`."""

    words: str
    embedding_norm: str
    attention_norm: str
    qkv: str
    output: str
    ffn_norm: str
    up: str
    down: str
    norm: str


@dataclass(frozen=True, slots=True)
class _Sizes:
    """`kinds` has the kind of attention of each layer, `ropes` the rotation of each kind."""

    hidden: int
    heads: int
    ffn: int
    context: int
    epsilon: float
    activation: str
    window: ops.WindowBias
    kinds: list[str]
    ropes: dict[str, ops.Rope]


_GGUF = _Names(
    words="token_embd",
    embedding_norm="token_embd_norm",
    attention_norm="blk.{i}.attn_norm",
    qkv="blk.{i}.attn_qkv",
    output="blk.{i}.attn_output",
    ffn_norm="blk.{i}.ffn_norm",
    up="blk.{i}.ffn_up",
    down="blk.{i}.ffn_down",
    norm="output_norm",
)


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for another activation."""
    require(checkpoint, "hidden_activation", _ACTIVATIONS, "gelu")
    prefix = prefix_of(checkpoint, "embeddings.tok_embeddings.weight")
    layer = prefix + "layers.{i}."
    names = _Names(
        words=f"{prefix}embeddings.tok_embeddings",
        embedding_norm=f"{prefix}embeddings.norm",
        attention_norm=f"{layer}attn_norm",
        qkv=f"{layer}attn.Wqkv",
        output=f"{layer}attn.Wo",
        ffn_norm=f"{layer}mlp_norm",
        up=f"{layer}mlp.Wi",
        down=f"{layer}mlp.Wo",
        norm=f"{prefix}final_norm",
    )
    hidden = positive(checkpoint, "hidden_size")
    heads = positive(checkpoint, "num_attention_heads")
    sizes = _Sizes(
        hidden=hidden,
        heads=heads,
        ffn=positive(checkpoint, "intermediate_size"),
        context=positive(checkpoint, "max_position_embeddings", default=8192),
        epsilon=number(checkpoint, "norm_eps", default=1e-5),
        activation=checkpoint.metadata.get("hidden_activation", "gelu"),
        window=ops.WindowBias(positive(checkpoint, "local_attention", default=128) // 2),
        kinds=_layer_kinds(checkpoint, num_layers(checkpoint, "num_hidden_layers")),
        ropes={kind: ops.Rope(_theta(checkpoint, kind), hidden // heads) for kind in (_SLIDING, _FULL)},
    )
    head = _head(checkpoint, sizes.epsilon)
    pooling = str(checkpoint.metadata.get("classifier_pooling", "cls")) if head else "mean"
    return _plan(checkpoint, names, sizes, pooling, head)


def describe_gguf(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for another activation, or a hyperparameter that is missing or wrong."""
    activation = checkpoint.hyper("hidden_activation", "gelu")
    if activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"The activation '{activation}' in '{checkpoint.path}' is not supported; gelu and silu are."
        )
    hidden = gguf_keys.positive(checkpoint, "embedding_length")
    heads = gguf_keys.positive(checkpoint, "attention.head_count")
    every = gguf_keys.positive(checkpoint, "attention.sliding_window_pattern", 3)
    layers = gguf_keys.num_layers(checkpoint)
    # The converter writes either, by the name that the original config has for it.
    epsilon = gguf_keys.number(checkpoint, "attention.layer_norm_rms_epsilon", 1e-5)
    sizes = _Sizes(
        hidden=hidden,
        heads=heads,
        ffn=gguf_keys.positive(checkpoint, "feed_forward_length"),
        context=gguf_keys.positive(checkpoint, "context_length", 8192),
        epsilon=gguf_keys.number(checkpoint, "attention.layer_norm_epsilon", epsilon),
        activation=activation,
        window=ops.WindowBias(gguf_keys.positive(checkpoint, "attention.sliding_window", 128) // 2),
        kinds=[_SLIDING if i % every else _FULL for i in range(layers)],
        ropes={
            _SLIDING: ops.Rope(gguf_keys.number(checkpoint, "rope.freq_base_swa", 10000.0), hidden // heads),
            _FULL: gguf_keys.rope(checkpoint, hidden // heads, theta=160000.0),
        },
    )
    head = ranking_head(checkpoint, ops.Head(LABELS, "cls", "gelu", norm="cls.norm", epsilon=sizes.epsilon))
    # Files without the key are older than it; llama.cpp reads them so, too.
    ranked = gguf_keys.classifier_pooling(checkpoint, "mean") if head else None
    return _plan(checkpoint, _GGUF, sizes, gguf_keys.pooling(checkpoint, "mean", ranked=ranked), head)


def _plan(
    checkpoint: Checkpoint, names: _Names, sizes: _Sizes, pooling: str, head: ops.Head | None
) -> ops.EncoderPlan:
    words = checkpoint.tensor(f"{names.words}.weight")
    hidden = sizes.hidden
    layers = range(len(sizes.kinds))
    return ops.EncoderPlan(
        hidden=hidden,
        context=sizes.context,
        vocab_size=words.shape[0],
        buffers={"x": hidden, "qkv": 3 * hidden, "attention": hidden, "up": 2 * sizes.ffn},
        operations=(
            ops.Embed(f"{names.words}.weight", "x"),
            _norm(checkpoint, names.embedding_norm, sizes, keep=True),
            *(operation for i in layers for operation in _layer(checkpoint, names, sizes, i)),
            _norm(checkpoint, names.norm, sizes, keep=True),
        ),
        pooling=pooling,
        head=head,
    )


def _layer(checkpoint: Checkpoint, names: _Names, sizes: _Sizes, i: int) -> tuple[ops.Operation, ...]:
    heads, head_dim = sizes.heads, sizes.hidden // sizes.heads
    kind = sizes.kinds[i]
    bias = sizes.window if kind == _SLIDING else None

    def linear(name: str, target: str) -> ops.Projection:
        name = name.format(i=i)
        biased = f"{name}.bias" in checkpoint.tensors
        return ops.Projection(f"{name}.weight", target, 0, f"{name}.bias" if biased else None)

    return (
        _norm(checkpoint, names.attention_norm.format(i=i), sizes),
        ops.Linear((linear(names.qkv, "qkv"),)),
        ops.Rotate("qkv", 2 * heads, head_dim, sizes.ropes[kind]),
        ops.EncoderAttention("qkv", "attention", heads, heads, head_dim**-0.5, bias=bias),
        ops.Quantize("attention"),
        ops.Linear((linear(names.output, "x"),), accumulate=True),
        _norm(checkpoint, names.ffn_norm.format(i=i), sizes),
        ops.Linear((linear(names.up, "up"),)),
        ops.Gated("up", sizes.ffn, sizes.activation),
        ops.Linear((linear(names.down, "x"),), accumulate=True),
    )


def _norm(checkpoint: Checkpoint, name: str, sizes: _Sizes, keep: bool = False) -> ops.Quantize:
    """Without the tensor there is no norm: the first layer reads the normed embedding."""
    weight = f"{name}.weight" if f"{name}.weight" in checkpoint.tensors else None
    bias = f"{name}.bias" if f"{name}.bias" in checkpoint.tensors else None
    return ops.Quantize("x", weight, sizes.epsilon, weight is not None, bias, keep=keep)


def _head(checkpoint: Checkpoint, epsilon: float) -> ops.Head | None:
    if "classifier.weight" not in checkpoint.tensors:
        return None
    return ops.Head("classifier", "head.dense", "gelu", norm="head.norm", epsilon=epsilon)


def _layer_kinds(checkpoint: Checkpoint, layers: int) -> list[str]:
    kinds: Any = checkpoint.metadata.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return [_SLIDING if kind == _SLIDING else _FULL for kind in kinds]
    every = positive(checkpoint, "global_attn_every_n_layers", default=3)
    return [_SLIDING if i % every else _FULL for i in range(layers)]


def _theta(checkpoint: Checkpoint, kind: str) -> float:
    if kind == _SLIDING:
        return rope_theta(checkpoint, "local_rope_theta", default=10000.0, kind=kind)
    return rope_theta(checkpoint, "global_rope_theta", default=160000.0, kind=kind)
