"""What older families call the sizes of a decoder in a config.json, and their activations."""

from __future__ import annotations

from dataclasses import replace

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder import Kind
from llm_serving.architectures.decoder_shape import LAYER_NORM, Defaults, Shape, read_shape
from llm_serving.checkpoints import Checkpoint

_KEYS = {
    "n_embd": "hidden_size",
    "n_embed": "hidden_size",
    "d_model": "hidden_size",
    "n_inner": "intermediate_size",
    "ffn_dim": "intermediate_size",
    "ffn_hidden_size": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "num_layers": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "num_heads": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "max_seq_len": "max_position_embeddings",
    "seq_length": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "activation_function": "hidden_act",
    "activation": "hidden_act",
}
_OTHERS = ("head_dim", "num_key_value_heads")  # that these families do not go by
_ACTIVATIONS = {  # as `Kind` has them
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}
BIASED = Kind(
    qkv_bias=True,
    output_bias=True,
    ffn_bias=True,
    layer_norm=True,
    norm_bias=True,
    gated=False,
)


def in_usual_words(checkpoint: Checkpoint, *, tied: bool = True, kv_heads: int | None = None) -> Checkpoint:
    """A directory with keys as `Defaults` knows them; the feed-forward size is four times the hidden one
    where a file does not say it, and embeddings are the head, too, where they are `tied` then. There are
    as many heads of keys as of queries, or `kv_heads`.

    Raises: CheckpointError when there is no hidden size.
    """
    if checkpoint.format == "gguf":
        return checkpoint
    own = {key: value for key, value in checkpoint.metadata.items() if key not in _OTHERS}
    usual = config_json.renamed(replace(checkpoint, metadata=own), _KEYS, tie_word_embeddings=tied)
    hidden = config_json.positive(usual, "hidden_size")
    return config_json.renamed(usual, {}, intermediate_size=4 * hidden, num_key_value_heads=kv_heads)


def read_older(checkpoint: Checkpoint, kind: Kind, *, context: int, activation: str) -> tuple[Shape, Kind]:
    """Sizes, and the kind with its activation, of a checkpoint `in_usual_words`.

    Raises: CheckpointError when a size is missing or not one that the engine runs, or the activation is not.
    """
    called = activation
    if checkpoint.format != "gguf":
        config_json.require(checkpoint, "hidden_act", tuple(_ACTIVATIONS), activation)
        called = str(checkpoint.metadata.get("hidden_act", activation))
    shape = read_shape(
        checkpoint, Defaults(context=context, epsilons=LAYER_NORM, activation=("hidden_act", called))
    )
    return shape, replace(kind, activation=_ACTIVATIONS[called])


def without_rotation(kind: Kind, shape: Shape) -> Kind:
    """Of decoders that know places otherwise."""
    return replace(kind, still=frozenset(range(shape.layers)))
