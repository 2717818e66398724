"""Qwen3-Embedding and Qwen3-Reranker: a causal decoder, read at its last token (Zhang et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.architectures import gguf_keys
from llm_serving.architectures.config_json import number, positive, prefix_of, require, rope_theta
from llm_serving.architectures.gguf_head import answer_head
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class _Names:
    """Tensor names without `.weight`; those of a layer contain `{i}`."""

    words: str
    input_norm: str
    query: str
    key: str
    value: str
    query_norm: str
    key_norm: str
    output: str
    attention_norm: str
    gate: str
    up: str
    down: str
    norm: str


@dataclass(frozen=True, slots=True)
class _Sizes:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context: int
    epsilon: float
    rope: ops.Rope

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim


_GGUF = _Names(
    words="token_embd",
    input_norm="blk.{i}.attn_norm",
    query="blk.{i}.attn_q",
    key="blk.{i}.attn_k",
    value="blk.{i}.attn_v",
    query_norm="blk.{i}.attn_q_norm",
    key_norm="blk.{i}.attn_k_norm",
    output="blk.{i}.attn_output",
    attention_norm="blk.{i}.ffn_norm",
    gate="blk.{i}.ffn_gate",
    up="blk.{i}.ffn_up",
    down="blk.{i}.ffn_down",
    norm="output_norm",
)


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for sliding windows, another activation, or labels that are not known."""
    if checkpoint.format == "gguf":
        return _describe_gguf(checkpoint)
    require(checkpoint, "hidden_act", ("silu",), "silu")
    require(checkpoint, "use_sliding_window", (False,), False)
    require(checkpoint, "attention_bias", (False,), False)
    prefix = prefix_of(checkpoint, "embed_tokens.weight")
    layer = prefix + "layers.{i}."
    names = _Names(
        words=f"{prefix}embed_tokens",
        input_norm=f"{layer}input_layernorm",
        query=f"{layer}self_attn.q_proj",
        key=f"{layer}self_attn.k_proj",
        value=f"{layer}self_attn.v_proj",
        query_norm=f"{layer}self_attn.q_norm",
        key_norm=f"{layer}self_attn.k_norm",
        output=f"{layer}self_attn.o_proj",
        attention_norm=f"{layer}post_attention_layernorm",
        gate=f"{layer}mlp.gate_proj",
        up=f"{layer}mlp.up_proj",
        down=f"{layer}mlp.down_proj",
        norm=f"{prefix}norm",
    )
    hidden = positive(checkpoint, "hidden_size")
    heads = positive(checkpoint, "num_attention_heads")
    head_dim = positive(checkpoint, "head_dim", default=hidden // heads)
    sizes = _Sizes(
        hidden=hidden,
        layers=positive(checkpoint, "num_hidden_layers"),
        heads=heads,
        kv_heads=positive(checkpoint, "num_key_value_heads", default=heads),
        head_dim=head_dim,
        ffn=positive(checkpoint, "intermediate_size"),
        context=positive(checkpoint, "max_position_embeddings", default=32768),
        epsilon=number(checkpoint, "rms_norm_eps", default=1e-6),
        rope=ops.Rope(rope_theta(checkpoint, "rope_theta", default=1000000.0), head_dim),
    )
    return _plan(checkpoint, names, sizes, "last", _head(checkpoint, f"{prefix}embed_tokens"))


def _head(checkpoint: Checkpoint, words: str) -> ops.Head | None:
    """A classifier, or the rows of the language model's own head for the answers named in `extras`."""
    answers: tuple[int, ...] | None = checkpoint.extras.get("answers")
    if answers is not None:
        return ops.Head(words if checkpoint.metadata.get("tie_word_embeddings") else "lm_head", rows=answers)
    return ops.Head("score") if "score.weight" in checkpoint.tensors else None


def _describe_gguf(checkpoint: Checkpoint) -> ops.EncoderPlan:
    hidden = gguf_keys.positive(checkpoint, "embedding_length")
    heads = gguf_keys.positive(checkpoint, "attention.head_count")
    head_dim = gguf_keys.positive(checkpoint, "attention.key_length", hidden // heads)
    sizes = _Sizes(
        hidden=hidden,
        layers=gguf_keys.positive(checkpoint, "block_count"),
        heads=heads,
        kv_heads=gguf_keys.positive(checkpoint, "attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=gguf_keys.positive(checkpoint, "feed_forward_length"),
        context=gguf_keys.positive(checkpoint, "context_length", 32768),
        epsilon=gguf_keys.number(checkpoint, "attention.layer_norm_rms_epsilon", 1e-6),
        rope=gguf_keys.rope(checkpoint, head_dim, theta=1000000.0),
    )
    head = answer_head(checkpoint)
    pooling = gguf_keys.pooling(checkpoint, "last", ranked="last" if head else None)
    return _plan(checkpoint, _GGUF, sizes, pooling, head)


def _plan(
    checkpoint: Checkpoint, names: _Names, sizes: _Sizes, pooling: str, head: ops.Head | None
) -> ops.EncoderPlan:
    words = checkpoint.tensor(f"{names.words}.weight")
    return ops.EncoderPlan(
        hidden=sizes.hidden,
        context=sizes.context,
        vocab_size=words.shape[0],
        buffers={
            "x": sizes.hidden,
            "qkv": sizes.queries + 2 * sizes.keys,
            "attention": sizes.queries,
            "up": 2 * sizes.ffn,
        },
        operations=(
            ops.Embed(f"{names.words}.weight", "x"),
            *(operation for i in range(sizes.layers) for operation in _layer(names, sizes, i)),
            ops.Quantize("x", f"{names.norm}.weight", sizes.epsilon, keep=True),
        ),
        pooling=pooling,
        head=head,
    )


def _layer(names: _Names, sizes: _Sizes, i: int) -> tuple[ops.Operation, ...]:
    heads, kv_heads, head_dim, epsilon = sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.epsilon

    def weight(name: str) -> str:
        return f"{name.format(i=i)}.weight"

    def linear(name: str, target: str, offset: int = 0) -> ops.Projection:
        return ops.Projection(weight(name), target, offset)

    return (
        ops.Quantize("x", weight(names.input_norm), epsilon),
        ops.Linear(
            (
                linear(names.query, "qkv"),
                linear(names.key, "qkv", sizes.queries),
                linear(names.value, "qkv", sizes.queries + sizes.keys),
            )
        ),
        ops.HeadNorm("qkv", 0, heads, weight(names.query_norm), epsilon),
        ops.HeadNorm("qkv", sizes.queries, kv_heads, weight(names.key_norm), epsilon),
        ops.Rotate("qkv", heads + kv_heads, head_dim, sizes.rope),
        ops.EncoderAttention("qkv", "attention", heads, kv_heads, head_dim**-0.5, causal=True),
        ops.Quantize("attention"),
        ops.Linear((linear(names.output, "x"),), accumulate=True),
        ops.Quantize("x", weight(names.attention_norm), epsilon),
        ops.Linear((linear(names.gate, "up"), linear(names.up, "up", sizes.ffn))),
        ops.Gated("up", sizes.ffn),
        ops.Linear((linear(names.down, "x"),), accumulate=True),
    )
