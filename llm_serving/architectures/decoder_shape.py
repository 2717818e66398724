"""What files call the parts of a decoder, and how they give its sizes: GGUF's keys, or a config.json."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving.architectures import config_json, gguf_keys
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Tensor names without `.weight`; those of a layer contain `{i}`. Empty: a family has no such tensor."""

    words: str
    input_norm: str
    query: str = ""
    key: str = ""
    value: str = ""
    query_norm: str = ""
    key_norm: str = ""
    output: str
    ffn_norm: str
    gate: str = ""
    up: str
    down: str
    norm: str
    head: str
    qkv: str = ""  # queries, keys and values in one matrix, where a family has them so
    gate_up: str = ""
    positions: str = ""  # that are learned
    words_norm: str = ""  # of embeddings, before the first layer


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder, checked."""

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


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a family means where a file says nothing."""

    theta: float = 10000.0
    epsilon: float = 1e-5
    context: int = 2048
    activation: tuple[str, str] = ("hidden_act", "silu")  # the key in a config.json, and what it must say
    rotated: float = 1.0  # the share of a head's dimensions that rotates, in a config.json
    epsilons: tuple[str, str] = (
        "rms_norm_eps",
        "attention.layer_norm_rms_epsilon",
    )  # keys: config.json, GGUF
    kind: str | None = None  # of layers, whose rotary positions `Shape.rope` is to have
    truncate: bool = True  # as in `yarn_factors`, which GGUF files do not say


LAYER_NORM = ("layer_norm_eps", "attention.layer_norm_epsilon")  # most common keys of these norms


_GGUF = Names(
    words="token_embd",
    input_norm="blk.{i}.attn_norm",
    query="blk.{i}.attn_q",
    key="blk.{i}.attn_k",
    value="blk.{i}.attn_v",
    query_norm="blk.{i}.attn_q_norm",
    key_norm="blk.{i}.attn_k_norm",
    output="blk.{i}.attn_output",
    ffn_norm="blk.{i}.ffn_norm",
    gate="blk.{i}.ffn_gate",
    up="blk.{i}.ffn_up",
    down="blk.{i}.ffn_down",
    norm="output_norm",
    head="output",
    qkv="blk.{i}.attn_qkv",
    gate_up="blk.{i}.ffn_up",
    positions="position_embd",
    words_norm="token_embd_norm",
)
GGUF_NORMS_BEHIND = ("blk.{i}.post_attention_norm", "blk.{i}.post_ffw_norm")  # attention and feed-forward


def read_names(checkpoint: Checkpoint) -> Names:
    """Raises: CheckpointError when a directory has no embedding."""
    if checkpoint.format == "gguf":
        return _GGUF
    prefix = config_json.prefix_of(checkpoint, "embed_tokens.weight")
    layer = prefix + "layers.{i}."
    return Names(
        words=f"{prefix}embed_tokens",
        input_norm=f"{layer}input_layernorm",
        query=f"{layer}self_attn.q_proj",
        key=f"{layer}self_attn.k_proj",
        value=f"{layer}self_attn.v_proj",
        query_norm=f"{layer}self_attn.q_norm",
        key_norm=f"{layer}self_attn.k_norm",
        output=f"{layer}self_attn.o_proj",
        ffn_norm=f"{layer}post_attention_layernorm",
        gate=f"{layer}mlp.gate_proj",
        up=f"{layer}mlp.up_proj",
        down=f"{layer}mlp.down_proj",
        norm=f"{prefix}norm",
        head=head_of(checkpoint) or "lm_head",
        qkv=f"{layer}self_attn.qkv_proj",
        gate_up=f"{layer}mlp.gate_up_proj",
    )


def head_of(checkpoint: Checkpoint) -> str | None:
    """What a directory calls the output head, without `.weight`, if it has one."""
    names = ("lm_head", "language_model.lm_head")  # of models that see, as they were written first
    return next((name for name in names if f"{name}.weight" in checkpoint.tensors), None)


def is_tied(checkpoint: Checkpoint, names: Names) -> bool:
    """Whether the embedding is the output head, too."""
    is_missing = f"{names.head}.weight" not in checkpoint.tensors
    if checkpoint.format == "gguf":
        return is_missing
    return bool(checkpoint.metadata.get("tie_word_embeddings", is_missing))


def read_shape(checkpoint: Checkpoint, defaults: Defaults) -> Shape:
    """Raises: CheckpointError when a size is missing, out of range, or not one that the engine runs."""
    shape = (_of_gguf if checkpoint.format == "gguf" else _of_config)(checkpoint, defaults)
    if shape.heads % shape.kv_heads or shape.head_dim % 8:
        raise CheckpointError(
            f"{shape.heads} query heads over {shape.kv_heads} key heads of size {shape.head_dim} "
            f"in '{checkpoint.path}' is a shape the engine does not run."
        )
    for name, size in (("hidden", shape.hidden), ("feed-forward", shape.ffn), ("attention", shape.queries)):
        if size % 32:
            raise CheckpointError(
                f"The {name} size of '{checkpoint.path}' is {size}; the engine needs a multiple of 32."
            )
    return shape


def _of_gguf(checkpoint: Checkpoint, defaults: Defaults) -> Shape:
    hidden = gguf_keys.positive(checkpoint, "embedding_length")
    heads = gguf_keys.positive(checkpoint, "attention.head_count")
    head_dim = gguf_keys.positive(checkpoint, "attention.key_length", max(1, hidden // heads))
    return Shape(
        hidden=hidden,
        layers=gguf_keys.num_layers(checkpoint),
        heads=heads,
        kv_heads=gguf_keys.positive(checkpoint, "attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=gguf_keys.positive(checkpoint, "feed_forward_length"),
        context=gguf_keys.positive(checkpoint, "context_length", defaults.context),
        epsilon=gguf_keys.number(checkpoint, defaults.epsilons[1], defaults.epsilon),
        rope=gguf_keys.rope(checkpoint, head_dim, defaults.theta, truncate=defaults.truncate),
    )


def _of_config(checkpoint: Checkpoint, defaults: Defaults) -> Shape:
    key, activation = defaults.activation
    config_json.require(checkpoint, key, (activation,), activation)
    hidden = config_json.positive(checkpoint, "hidden_size")
    heads = config_json.positive(checkpoint, "num_attention_heads")
    # Null stands for the usual size, as in files that write every key.
    head_dim, kv_heads = hidden // heads, heads
    if checkpoint.metadata.get("head_dim") is not None:
        head_dim = config_json.positive(checkpoint, "head_dim")
    if checkpoint.metadata.get("num_key_value_heads") is not None:
        kv_heads = config_json.positive(checkpoint, "num_key_value_heads")
    return Shape(
        hidden=hidden,
        layers=config_json.num_layers(checkpoint, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=config_json.positive(checkpoint, "intermediate_size"),
        context=config_json.positive(checkpoint, "max_position_embeddings", default=defaults.context),
        epsilon=config_json.number(checkpoint, defaults.epsilons[0], default=defaults.epsilon),
        rope=config_json.rope(checkpoint, head_dim, defaults.theta, defaults.kind, defaults.rotated),
    )
