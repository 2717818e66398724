"""BERT, RoBERTa, XLM-R, DistilBERT and MPNet; from GGUF files, where they are all called bert, not MPNet.

One encoder under five sets of names. RoBERTa counts positions from its padding id + 1; MPNet adds a learned
bias by distance; DistilBERT has no segments.
"""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import gguf_keys, jina_bert
from llm_serving.architectures.config_json import num_layers, number, positive, prefix_of, require
from llm_serving.architectures.gguf_head import LABELS, ranking_head
from llm_serving.architectures.post_norm import Names, Sizes, describe_post_norm
from llm_serving.checkpoints import Checkpoint
from llm_serving.native import ops

GELU = ("gelu", "gelu_python")


def _sizes(checkpoint: Checkpoint, skip: int = 0) -> Sizes:
    return Sizes(
        hidden=positive(checkpoint, "hidden_size", "dim"),
        layers=num_layers(checkpoint, "num_hidden_layers", "n_layers"),
        heads=positive(checkpoint, "num_attention_heads", "n_heads"),
        ffn=positive(checkpoint, "intermediate_size", "hidden_dim"),
        context=positive(checkpoint, "max_position_embeddings", default=512) - skip,
        epsilon=number(checkpoint, "layer_norm_eps", default=1e-12),
        skip=skip,
        segments=positive(checkpoint, "type_vocab_size", default=1),
    )


def names_of(prefix: str) -> Names:
    """Of all that `transformers` writes in the manner of BERT."""
    layer = prefix + "encoder.layer.{i}."
    return Names(
        words=f"{prefix}embeddings.word_embeddings",
        positions=f"{prefix}embeddings.position_embeddings",
        segments=f"{prefix}embeddings.token_type_embeddings",
        embedding_norm=f"{prefix}embeddings.LayerNorm",
        query=f"{layer}attention.self.query",
        key=f"{layer}attention.self.key",
        value=f"{layer}attention.self.value",
        output=f"{layer}attention.output.dense",
        attention_norm=f"{layer}attention.output.LayerNorm",
        up=f"{layer}intermediate.dense",
        down=f"{layer}output.dense",
        output_norm=f"{layer}output.LayerNorm",
    )


def _head(checkpoint: Checkpoint, classifier: str, dense: str, activation: str = "tanh") -> ops.Head | None:
    if f"{classifier}.weight" not in checkpoint.tensors:
        return None
    return ops.Head(classifier, dense if f"{dense}.weight" in checkpoint.tensors else None, activation)


def describe_bert(checkpoint: Checkpoint) -> ops.EncoderPlan:
    if checkpoint.format == "gguf":
        return _describe_gguf(checkpoint)
    if checkpoint.metadata.get("position_embedding_type") == "alibi":
        return jina_bert.describe(checkpoint)
    require(checkpoint, "hidden_act", GELU, "gelu")
    require(checkpoint, "position_embedding_type", ("absolute",), "absolute")
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    head = _head(checkpoint, "classifier", f"{prefix}pooler.dense")
    return describe_post_norm(
        checkpoint, names_of(prefix), _sizes(checkpoint), pooling="cls" if head else "mean", head=head
    )


def describe_roberta(checkpoint: Checkpoint) -> ops.EncoderPlan:
    require(checkpoint, "hidden_act", GELU, "gelu")
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    head = _head(checkpoint, "classifier.out_proj", "classifier.dense")
    padding = checkpoint.metadata.get("pad_token_id", 1)
    sizes = _sizes(checkpoint, skip=int(padding) + 1)
    return describe_post_norm(
        checkpoint, names_of(prefix), sizes, pooling="cls" if head else "mean", head=head
    )


def describe_distilbert(checkpoint: Checkpoint) -> ops.EncoderPlan:
    require(checkpoint, "activation", GELU, "gelu")
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    layer = prefix + "transformer.layer.{i}."
    names = Names(
        words=f"{prefix}embeddings.word_embeddings",
        positions=f"{prefix}embeddings.position_embeddings",
        embedding_norm=f"{prefix}embeddings.LayerNorm",
        query=f"{layer}attention.q_lin",
        key=f"{layer}attention.k_lin",
        value=f"{layer}attention.v_lin",
        output=f"{layer}attention.out_lin",
        attention_norm=f"{layer}sa_layer_norm",
        up=f"{layer}ffn.lin1",
        down=f"{layer}ffn.lin2",
        output_norm=f"{layer}output_layer_norm",
    )
    head = _head(checkpoint, "classifier", "pre_classifier", "relu")
    return describe_post_norm(
        checkpoint, names, _sizes(checkpoint), pooling="cls" if head else "mean", head=head
    )


def describe_mpnet(checkpoint: Checkpoint) -> ops.EncoderPlan:
    require(checkpoint, "hidden_act", GELU, "gelu")
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    layer = prefix + "encoder.layer.{i}."
    names = Names(
        words=f"{prefix}embeddings.word_embeddings",
        positions=f"{prefix}embeddings.position_embeddings",
        embedding_norm=f"{prefix}embeddings.LayerNorm",
        query=f"{layer}attention.attn.q",
        key=f"{layer}attention.attn.k",
        value=f"{layer}attention.attn.v",
        output=f"{layer}attention.attn.o",
        attention_norm=f"{layer}attention.LayerNorm",
        up=f"{layer}intermediate.dense",
        down=f"{layer}output.dense",
        output_norm=f"{layer}output.LayerNorm",
    )
    padding = checkpoint.metadata.get("pad_token_id", 1)
    head = _head(checkpoint, "classifier.out_proj", "classifier.dense")
    return describe_post_norm(
        checkpoint,
        names,
        _sizes(checkpoint, skip=int(padding) + 1),
        bias=ops.BucketBias(f"{prefix}encoder.relative_attention_bias.weight"),
        pooling="cls" if head else "mean",
        head=head,
    )


_GGUF = Names(
    words="token_embd",
    positions="position_embd",
    segments="token_types",
    embedding_norm="token_embd_norm",
    query="blk.{i}.attn_q",
    key="blk.{i}.attn_k",
    value="blk.{i}.attn_v",
    output="blk.{i}.attn_output",
    attention_norm="blk.{i}.attn_output_norm",
    up="blk.{i}.ffn_up",
    down="blk.{i}.ffn_down",
    output_norm="blk.{i}.layer_output_norm",
)


def _describe_gguf(checkpoint: Checkpoint) -> ops.EncoderPlan:
    """All four of them but MPNet look the same here; positions that RoBERTa skips are not in the file."""
    has_segments = "token_types.weight" in checkpoint.tensors
    sizes = Sizes(
        hidden=gguf_keys.positive(checkpoint, "embedding_length"),
        layers=gguf_keys.num_layers(checkpoint),
        heads=gguf_keys.positive(checkpoint, "attention.head_count"),
        ffn=gguf_keys.positive(checkpoint, "feed_forward_length"),
        context=gguf_keys.positive(checkpoint, "context_length", 512),
        epsilon=gguf_keys.number(checkpoint, "attention.layer_norm_epsilon", 1e-12),
        segments=checkpoint.tensors["token_types.weight"].shape[0] if has_segments else 1,
    )
    names = _GGUF if has_segments else replace(_GGUF, segments=None)
    # Of these families only DistilBERT has no segments, and it alone has relu here. The file does not say.
    head = ranking_head(checkpoint, ops.Head(LABELS, "cls", "tanh" if has_segments else "relu"))
    pooling = gguf_keys.pooling(checkpoint, "mean", ranked="cls" if head else None)
    return describe_post_norm(checkpoint, names, sizes, pooling=pooling, head=head)
