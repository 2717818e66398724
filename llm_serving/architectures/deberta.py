"""DeBERTa 2 and 3, mDeBERTa: BERT whose attention reads contents and positions apart (He et al. 2021)."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures.bert import names_of
from llm_serving.architectures.config_json import num_layers, number, positive, prefix_of, require
from llm_serving.architectures.post_norm import Names, Sizes, describe_post_norm
from llm_serving.checkpoints import Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

MOST_CONTEXT = 4096  # there is a bias for each pair of tokens: 64 MB a thread
_SELF = "encoder.layer.{i}.attention.self."


def describe(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """Raises: CheckpointError for absolute positions, convolutions, other activations, and odd sizes."""
    require(checkpoint, "hidden_act", ("gelu",), "gelu")
    require(checkpoint, "relative_attention", (True,), False)
    require(checkpoint, "position_biased_input", (False,), True)
    require(checkpoint, "conv_kernel_size", (0, None), 0)
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    sizes = _sizes(checkpoint)
    kinds, positions = _kinds(checkpoint), _positions(checkpoint, prefix, sizes)
    is_shared = checkpoint.metadata.get("share_att_key", False)
    key, query = ("key_proj", "query_proj") if is_shared else ("pos_key_proj", "pos_query_proj")
    scale = ((1 + len(kinds)) * sizes.hidden / sizes.heads) ** -0.5

    def attention(i: int) -> ops.DisentangledAttention:
        own = prefix + _SELF.format(i=i)
        keys, queries = own + key if "c2p" in kinds else None, own + query if "p2c" in kinds else None
        return ops.DisentangledAttention("qkv", "attention", sizes.heads, scale, positions, keys, queries)

    head = None
    if "classifier.weight" in checkpoint.tensors:
        activation = str(checkpoint.metadata.get("pooler_hidden_act", "gelu"))
        head = ops.Head("classifier", "pooler.dense", activation)
    pooling = "cls" if head else "mean"
    names = _names(prefix)
    return describe_post_norm(checkpoint, names, sizes, attention=attention, pooling=pooling, head=head)


def _names(prefix: str) -> Names:
    own = {part: f"{prefix}{_SELF}{part}_proj" for part in ("query", "key", "value")}
    return replace(names_of(prefix), positions=None, segments=None, **own)


def _sizes(checkpoint: Checkpoint) -> Sizes:
    return Sizes(
        hidden=positive(checkpoint, "hidden_size"),
        layers=num_layers(checkpoint, "num_hidden_layers"),
        heads=positive(checkpoint, "num_attention_heads"),
        ffn=positive(checkpoint, "intermediate_size"),
        context=min(positive(checkpoint, "max_position_embeddings", default=512), MOST_CONTEXT),
        epsilon=number(checkpoint, "layer_norm_eps", default=1e-7),
    )


def _kinds(checkpoint: Checkpoint) -> set[str]:
    """What is added to the scores of contents: `c2p`, contents to positions, and `p2c`."""
    named = checkpoint.metadata.get("pos_att_type") or []
    kinds = named.lower().split("|") if isinstance(named, str) else named
    if not isinstance(kinds, list) or any(kind not in ("c2p", "p2c", "") for kind in kinds):
        raise CheckpointError(
            f"'pos_att_type' in '{checkpoint.path}' is {str(named)[:80]!r}; supported: c2p and p2c."
        )
    return set(kinds) - {""}


def _positions(checkpoint: Checkpoint, prefix: str, sizes: Sizes) -> ops.Positions:
    most = _count(checkpoint, "max_relative_positions") or sizes.context
    buckets = _count(checkpoint, "position_buckets")
    normed = str(checkpoint.metadata.get("norm_rel_ebd", "none")).lower().split("|")
    table, span = f"{prefix}encoder.rel_embeddings.weight", buckets or most
    if checkpoint.tensor(table).shape != (2 * span, sizes.hidden):
        raise CheckpointError(
            f"Tensor '{table}' in '{checkpoint.path}' has the shape {checkpoint.tensor(table).shape}; "
            f"{2 * span} rows of {sizes.hidden} are needed."
        )
    return ops.Positions(
        table=table,
        span=span,
        buckets=buckets > 0,
        most_distance=most,
        norm=f"{prefix}encoder.LayerNorm" if "layer_norm" in normed else None,
        epsilon=sizes.epsilon,
    )


def _count(checkpoint: Checkpoint, key: str) -> int:
    """0 where the config says none, as -1 does."""
    value = checkpoint.metadata.get(key)
    return value if isinstance(value, int) and value > 0 else 0
