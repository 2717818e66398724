"""jina-embeddings-v2 and jina-reranker-v1: BERT with ALiBi and GeGLU (Günther et al. 2023).

Config files call it bert, with `position_embedding_type` alibi.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_serving.architectures import gguf_keys
from llm_serving.architectures.config_json import num_layers, number, positive, prefix_of, require
from llm_serving.architectures.gguf_head import LABELS, ranking_head
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class _Names:
    """Tensor names without `.weight` and `.bias`; those of a layer contain `{i}`.

    `up` has the gate's rows, too, unless `gate` has them. The model for code has norms for queries and keys,
    and after attention adds the layer's input a second time and norms the sum by `second_norm`.
    """

    words: str
    segments: str
    embedding_norm: str
    query: str
    query_norm: str
    key: str
    key_norm: str
    value: str
    output: str
    attention_norm: str
    second_norm: str
    gate: str
    up: str
    down: str
    output_norm: str


@dataclass(frozen=True, slots=True)
class _Sizes:
    hidden: int
    layers: int
    heads: int
    ffn: int
    context: int
    epsilon: float


_GGUF = _Names(
    words="token_embd",
    segments="token_types",
    embedding_norm="token_embd_norm",
    query="blk.{i}.attn_q",
    query_norm="blk.{i}.attn_q_norm",
    key="blk.{i}.attn_k",
    key_norm="blk.{i}.attn_k_norm",
    value="blk.{i}.attn_v",
    output="blk.{i}.attn_output",
    attention_norm="blk.{i}.attn_output_norm",
    second_norm="blk.{i}.attn_norm_2",
    gate="blk.{i}.ffn_gate",
    up="blk.{i}.ffn_up",
    down="blk.{i}.ffn_down",
    output_norm="blk.{i}.layer_output_norm",
)


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for another feed-forward layer."""
    require(checkpoint, "feed_forward_type", ("geglu",), "geglu")
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    layer = prefix + "encoder.layer.{i}."
    names = _Names(
        words=f"{prefix}embeddings.word_embeddings",
        segments=f"{prefix}embeddings.token_type_embeddings",
        embedding_norm=f"{prefix}embeddings.LayerNorm",
        query=f"{layer}attention.self.query",
        query_norm=f"{layer}attention.self.layer_norm_q",
        key=f"{layer}attention.self.key",
        key_norm=f"{layer}attention.self.layer_norm_k",
        value=f"{layer}attention.self.value",
        output=f"{layer}attention.output.dense",
        attention_norm=f"{layer}attention.output.LayerNorm",
        second_norm=f"{layer}layer_norm_1",
        gate=f"{layer}mlp.gate",  # which no file has
        up=f"{layer}mlp.gated_layers",
        down=f"{layer}mlp.wo",
        output_norm=f"{layer}mlp.layernorm",
    )
    if _is_for_code(checkpoint, names):
        names = replace(
            names,
            up=f"{layer}mlp.up_gated_layer",
            down=f"{layer}mlp.down_layer",
            output_norm=f"{layer}layer_norm_2",
        )
    sizes = _Sizes(
        hidden=positive(checkpoint, "hidden_size"),
        layers=num_layers(checkpoint, "num_hidden_layers"),
        heads=positive(checkpoint, "num_attention_heads"),
        ffn=positive(checkpoint, "intermediate_size"),
        context=positive(checkpoint, "max_position_embeddings", default=8192),
        epsilon=number(checkpoint, "layer_norm_eps", default=1e-12),
    )
    if "classifier.weight" not in checkpoint.tensors:
        return _plan(checkpoint, names, sizes, "mean", None)
    return _plan(checkpoint, names, sizes, "cls", ops.Head("classifier", f"{prefix}pooler.dense"))


def describe_gguf(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for a hyperparameter that is missing or wrong."""
    sizes = _Sizes(
        hidden=gguf_keys.positive(checkpoint, "embedding_length"),
        layers=gguf_keys.num_layers(checkpoint),
        heads=gguf_keys.positive(checkpoint, "attention.head_count"),
        ffn=gguf_keys.positive(checkpoint, "feed_forward_length"),
        context=gguf_keys.positive(checkpoint, "context_length", 8192),
        epsilon=gguf_keys.number(checkpoint, "attention.layer_norm_epsilon", 1e-12),
    )
    head = ranking_head(checkpoint, ops.Head(LABELS, "cls"))
    pooling = gguf_keys.pooling(checkpoint, "mean", ranked="cls" if head else None)
    return _plan(checkpoint, _GGUF, sizes, pooling, head)


def _plan(
    checkpoint: Checkpoint, names: _Names, sizes: _Sizes, pooling: str, head: ops.Head | None
) -> ops.EncoderPlan:
    words = checkpoint.tensor(f"{names.words}.weight")
    hidden = sizes.hidden
    if hidden % sizes.heads or (hidden // sizes.heads) % 8:
        raise CheckpointError(
            f"{sizes.heads} heads over {hidden} dimensions in '{checkpoint.path}' is a shape "
            "the engine does not run."
        )
    kept = {"kept": hidden} if _is_for_code(checkpoint, names) else {}
    segments = checkpoint.tensor(f"{names.segments}.weight").shape[0]
    return ops.EncoderPlan(
        hidden=hidden,
        context=sizes.context,
        vocab_size=words.shape[0],
        buffers={"x": hidden, "qkv": 3 * hidden, "attention": hidden, "up": 2 * sizes.ffn, **kept},
        operations=(
            ops.Embed(f"{names.words}.weight", "x", fine=True),
            ops.AddPositions(None, "x", sizes.context, f"{names.segments}.weight"),
            _norm(names.embedding_norm, sizes),
            *(operation for i in range(sizes.layers) for operation in _layer(checkpoint, names, sizes, i)),
        ),
        pooling=pooling,
        segments=segments,
        head=head,
    )


def _is_for_code(checkpoint: Checkpoint, names: _Names) -> bool:
    return f"{names.query_norm.format(i=0)}.weight" in checkpoint.tensors


def _layer(checkpoint: Checkpoint, names: _Names, sizes: _Sizes, i: int) -> tuple[ops.Operation, ...]:
    hidden, heads = sizes.hidden, sizes.heads

    def linear(
        name: str, target: str, offset: int = 0, fine: bool = False, part: ops.Part | None = None
    ) -> ops.Projection:
        name = name.format(i=i)
        bias = f"{name}.bias" if f"{name}.bias" in checkpoint.tensors else None
        return ops.Projection(f"{name}.weight", target, offset, bias, fine=fine, part=part)

    def head_norm(name: str, offset: int) -> ops.HeadNorm:
        name = name.format(i=i)
        return ops.HeadNorm("qkv", offset, sizes.hidden, 1, f"{name}.weight", sizes.epsilon, f"{name}.bias")

    is_for_code = _is_for_code(checkpoint, names)
    up: tuple[ops.Projection, ...] = (linear(names.up, "up"),)
    if f"{names.gate.format(i=i)}.weight" in checkpoint.tensors:
        up = (linear(names.gate, "up"), linear(names.up, "up", sizes.ffn))
    elif is_for_code:  # the gate is the second half there, and conversion to GGUF leaves it so
        up = (
            linear(names.up, "up", part=ops.Part(1, 2)),
            linear(names.up, "up", sizes.ffn, part=ops.Part(0, 2)),
        )
    norms: tuple[ops.Operation, ...] = ()
    again: tuple[ops.Operation, ...] = ()
    if is_for_code:
        norms = (head_norm(names.query_norm, 0), head_norm(names.key_norm, hidden), ops.Copy("x", "kept"))
        again = (ops.Copy("kept", "x", accumulate=True), _norm(names.second_norm.format(i=i), sizes))
    return (
        ops.Linear(
            (
                linear(names.query, "qkv"),
                linear(names.key, "qkv", hidden),
                linear(names.value, "qkv", 2 * hidden, fine=True),
            )
        ),
        *norms,
        ops.EncoderAttention(
            "qkv", "attention", heads, heads, (hidden // heads) ** -0.5, bias=ops.LinearBias(heads)
        ),
        ops.Quantize("attention"),
        ops.Linear((linear(names.output, "x"),), accumulate=True),
        _norm(names.attention_norm.format(i=i), sizes),
        *again,
        ops.Linear(up),
        ops.Gated("up", sizes.ffn, "gelu"),
        ops.Linear((linear(names.down, "x"),), accumulate=True),
        _norm(names.output_norm.format(i=i), sizes),
    )


def _norm(name: str, sizes: _Sizes) -> ops.Quantize:
    return ops.Quantize("x", f"{name}.weight", sizes.epsilon, True, f"{name}.bias", keep=True)
