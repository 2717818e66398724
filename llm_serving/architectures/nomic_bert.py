"""nomic-embed-text: BERT with rotary positions, and SwiGLU or in every second layer a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.architectures import gguf_keys
from llm_serving.architectures.config_json import num_layers, number, positive, prefix_of, require, rope_theta
from llm_serving.architectures.experts import (
    ExpertNames,
    ExpertSizes,
    expert_buffers,
    expert_slots,
    mixture,
)
from llm_serving.architectures.gguf_head import LABELS, ranking_head
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops


@dataclass(frozen=True, slots=True)
class _Names:
    """Tensor names without `.weight` and `.bias`; those of a layer contain `{i}`."""

    words: str
    segments: str
    embedding_norm: str
    qkv: str
    output: str
    attention_norm: str
    gate: str
    up: str
    down: str
    output_norm: str
    experts: ExpertNames


@dataclass(frozen=True, slots=True)
class _Sizes:
    """`gated` is SwiGLU instead of gelu; `experts` are in the layers 1, 1 + every, … if there are some."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    context: int
    epsilon: float
    rope: ops.Rope
    gated: bool = True
    experts: ExpertSizes | None = None


_GGUF = _Names(
    words="token_embd",
    segments="token_types",
    embedding_norm="token_embd_norm",
    qkv="blk.{i}.attn_qkv",
    output="blk.{i}.attn_output",
    attention_norm="blk.{i}.attn_output_norm",
    gate="blk.{i}.ffn_gate",
    up="blk.{i}.ffn_up",
    down="blk.{i}.ffn_down",
    output_norm="blk.{i}.layer_output_norm",
    experts=ExpertNames(
        router="blk.{i}.ffn_gate_inp.weight",
        up="blk.{i}.ffn_up_exps.weight",
        down="blk.{i}.ffn_down_exps.weight",
        bias="blk.{i}.ffn_down_exps.bias",
    ),
)


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Config keys as nomic-ai publishes them, or as transformers writes them; tensor names are the same.

    Raises: CheckpointError for a variant (pre-norm, interleaved rotation) that is not computed here.
    """
    require(checkpoint, "activation_function", ("swiglu", "gelu"), "swiglu")
    require(checkpoint, "moe_normalize_expert_weights", (False,), False)
    require(checkpoint, "expert_choice_router", (False,), False)
    gated = checkpoint.metadata.get("activation_function", "swiglu") == "swiglu"
    require(checkpoint, "hidden_act", ("silu",), "silu")
    require(checkpoint, "prenorm", (False,), False)
    require(checkpoint, "rotary_emb_interleaved", (False,), False)
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    layer = prefix + "encoder.layers.{i}."
    names = _Names(
        words=f"{prefix}embeddings.word_embeddings",
        segments=f"{prefix}embeddings.token_type_embeddings",
        embedding_norm=f"{prefix}emb_ln",
        qkv=f"{layer}attn.Wqkv",
        output=f"{layer}attn.out_proj",
        attention_norm=f"{layer}norm1",
        gate=f"{layer}mlp.fc12",
        up=f"{layer}mlp.fc11" if gated else f"{layer}mlp.fc1",
        down=f"{layer}mlp.fc2",
        output_norm=f"{layer}norm2",
        experts=ExpertNames(
            router=f"{layer}mlp.router.layer.weight",
            up=f"{layer}mlp.experts.mlp.w1",
            down=f"{layer}mlp.experts.mlp.w2",
            bias=f"{layer}mlp.experts.bias",
            transposed=True,
        ),
    )
    hidden = positive(checkpoint, "n_embd", "hidden_size")
    ffn = positive(checkpoint, "n_inner", "intermediate_size", default=4 * hidden)
    heads = positive(checkpoint, "n_head", "num_attention_heads")
    sizes = _Sizes(
        hidden=hidden,
        layers=num_layers(checkpoint, "n_layer", "num_hidden_layers"),
        heads=heads,
        ffn=ffn,
        context=positive(checkpoint, "n_positions", "max_position_embeddings", default=2048),
        epsilon=number(checkpoint, "layer_norm_epsilon", "layer_norm_eps", default=1e-12),
        rope=ops.Rope(rope_theta(checkpoint, "rotary_emb_base", default=10000.0), hidden // heads),
        gated=gated,
        experts=_experts(checkpoint, ffn),
    )
    if "classifier.weight" not in checkpoint.tensors:
        return _plan(checkpoint, names, sizes, "mean", None)
    return _plan(checkpoint, names, sizes, "cls", ops.Head("classifier", f"{prefix}pooler.dense"))


def describe_gguf(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for a hyperparameter that is missing or out of range."""
    hidden = gguf_keys.positive(checkpoint, "embedding_length")
    ffn = gguf_keys.positive(checkpoint, "feed_forward_length")
    heads = gguf_keys.positive(checkpoint, "attention.head_count")
    sizes = _Sizes(
        hidden=hidden,
        layers=gguf_keys.num_layers(checkpoint),
        heads=heads,
        ffn=ffn,
        context=gguf_keys.positive(checkpoint, "context_length", 2048),
        epsilon=gguf_keys.number(checkpoint, "attention.layer_norm_epsilon", 1e-12),
        rope=gguf_keys.rope(checkpoint, hidden // heads),
        gated="moe" not in checkpoint.architecture,
        experts=_gguf_experts(checkpoint, ffn),
    )
    head = ranking_head(checkpoint, ops.Head(LABELS, "cls"))
    pooling = gguf_keys.pooling(checkpoint, "mean", ranked="cls" if head else None)
    return _plan(checkpoint, _GGUF, sizes, pooling, head)


def _experts(checkpoint: Checkpoint, ffn: int) -> ExpertSizes | None:
    if not checkpoint.metadata.get("moe_every_n_layers"):
        return None
    return ExpertSizes(
        count=positive(checkpoint, "num_experts", "num_local_experts"),
        used=positive(checkpoint, "moe_top_k"),
        ffn=ffn,
        every=positive(checkpoint, "moe_every_n_layers"),
    )


def _gguf_experts(checkpoint: Checkpoint, ffn: int) -> ExpertSizes | None:
    if not checkpoint.hyper("moe_every_n_layers"):
        return None
    return ExpertSizes(
        count=gguf_keys.positive(checkpoint, "expert_count"),
        used=gguf_keys.positive(checkpoint, "expert_used_count"),
        ffn=ffn,
        every=gguf_keys.positive(checkpoint, "moe_every_n_layers"),
    )


def _plan(
    checkpoint: Checkpoint, names: _Names, sizes: _Sizes, pooling: str, head: ops.Head | None
) -> ops.EncoderPlan:
    words = checkpoint.tensor(f"{names.words}.weight")
    segments = checkpoint.tensors.get(f"{names.segments}.weight")
    table = (
        () if segments is None else (ops.AddPositions(None, "x", sizes.context, f"{names.segments}.weight"),)
    )
    hidden, ffn = sizes.hidden, sizes.ffn
    return ops.EncoderPlan(
        hidden=hidden,
        context=sizes.context,
        vocab_size=words.shape[0],
        buffers={
            "x": hidden,
            "qkv": 3 * hidden,
            "attention": hidden,
            "up": 2 * ffn if sizes.gated else ffn,
            **expert_buffers(sizes.experts),
        },
        operations=(
            ops.Embed(f"{names.words}.weight", "x"),
            *table,
            _norm(names.embedding_norm, sizes),
            *(operation for i in range(sizes.layers) for operation in _layer(checkpoint, names, sizes, i)),
        ),
        pooling=pooling,
        segments=1 if segments is None else segments.shape[0],
        head=head,
        slots=expert_slots(hidden, sizes.experts, names.experts),
    )


def _layer(checkpoint: Checkpoint, names: _Names, sizes: _Sizes, i: int) -> tuple[ops.Operation, ...]:
    heads, head_dim = sizes.heads, sizes.hidden // sizes.heads

    def linear(name: str, target: str, offset: int = 0) -> ops.Projection:
        name = name.format(i=i)
        bias = f"{name}.bias" if f"{name}.bias" in checkpoint.tensors else None
        return ops.Projection(f"{name}.weight", target, offset, bias)

    feed_forward: tuple[ops.Operation, ...] = (
        ops.Linear((linear(names.gate, "up"), linear(names.up, "up", sizes.ffn))),
        ops.Gated("up", sizes.ffn),
        ops.Linear((linear(names.down, "x"),), accumulate=True),
    )
    if sizes.experts is not None and i % sizes.experts.every == 1:
        feed_forward = mixture(checkpoint, names.experts, sizes.experts, i)
    elif not sizes.gated:
        feed_forward = (ops.Linear((linear(names.up, "up"),)), ops.Gelu("up"), feed_forward[-1])
    return (
        ops.Linear((linear(names.qkv, "qkv"),)),
        ops.Rotate("qkv", 2 * heads, head_dim, sizes.rope),
        ops.EncoderAttention("qkv", "attention", heads, heads, head_dim**-0.5),
        ops.Quantize("attention"),
        ops.Linear((linear(names.output, "x"),), accumulate=True),
        _norm(names.attention_norm.format(i=i), sizes),
        *feed_forward,
        _norm(names.output_norm.format(i=i), sizes),
    )


def _norm(name: str, sizes: _Sizes) -> ops.Quantize:
    return ops.Quantize("x", f"{name}.weight", sizes.epsilon, True, f"{name}.bias", keep=True)
