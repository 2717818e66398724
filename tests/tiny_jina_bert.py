"""A tiny random jina-bert-v2 in a Hugging Face directory, and what it computes, in numpy.

Written from the published description (Günther et al. 2023; ALiBi: Press et al. 2022).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tiny_encoders import BERT_VOCAB, write_bert_tokenizer, write_json, write_modules, write_safetensors

LAYERS, FFN, EPSILON = 2, 96, 1e-12


def write_tiny_jina(directory: Path, *, hidden: int = 96, heads: int = 6, labels: int = 0) -> Path:
    """With `labels`, a cross-encoder: names begin with `bert.`. Returns `directory`."""
    rng = np.random.default_rng(11)
    prefix = "bert." if labels else ""
    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, rows: int, columns: int, gain: float = 1.0, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = rng.normal(0, gain / columns**0.5, (rows, columns)).astype(np.float32)
        if bias:
            tensors[f"{name}.bias"] = rng.normal(0, 0.1, rows).astype(np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = rng.normal(1, 0.2, hidden).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, hidden).astype(np.float32)

    for name, rows in (("word", len(BERT_VOCAB)), ("token_type", 2)):
        table = rng.normal(0, 1, (rows, hidden)).astype(np.float32)
        tensors[f"{prefix}embeddings.{name}_embeddings.weight"] = table
    norm(f"{prefix}embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"{prefix}encoder.layer.{i}."
        for part in ("query", "key", "value"):
            linear(f"{layer}attention.self.{part}", hidden, hidden, 1.5)
        linear(f"{layer}attention.output.dense", hidden, hidden)
        norm(f"{layer}attention.output.LayerNorm")
        linear(f"{layer}mlp.gated_layers", 2 * FFN, hidden, bias=False)
        linear(f"{layer}mlp.wo", hidden, FFN)
        norm(f"{layer}mlp.layernorm")
    linear(f"{prefix}pooler.dense", hidden, hidden)
    if labels:
        linear("classifier", labels, hidden)
    config = {
        "model_type": "bert",
        "position_embedding_type": "alibi",
        "feed_forward_type": "geglu",
        "hidden_size": hidden,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": heads,
        "intermediate_size": FFN,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": EPSILON,
    }
    write_json(directory / "config.json", config)
    write_safetensors(directory / "model.safetensors", tensors)
    write_bert_tokenizer(directory)
    if not labels:
        write_modules(directory, hidden, "mean", normalize=True)
    return directory


def slopes(heads: int) -> list[float]:
    """Of each head, as ALiBi's own code makes them for any number."""
    if math.log2(heads).is_integer():
        start = 2.0 ** (-(2.0 ** -(math.log2(heads) - 3)))
        return [start ** (i + 1) for i in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return slopes(power) + slopes(2 * power)[0::2][: heads - power]


def hidden_states(
    tensors: dict[str, np.ndarray], token_ids: list[int], segments: list[int], heads: int
) -> np.ndarray:
    """float64 [tokens, hidden]."""
    prefix = "bert." if "classifier.weight" in tensors else ""
    weights = {name.removeprefix(prefix): value.astype(np.float64) for name, value in tensors.items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        y: np.ndarray = x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)
        return y

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(centred.var(-1, keepdims=True) + EPSILON)
        y: np.ndarray = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        return y

    gelu = np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))
    at = np.arange(len(token_ids))
    bias = -np.array(slopes(heads))[:, None, None] * np.abs(at[:, None] - at)
    x = weights["embeddings.word_embeddings.weight"][token_ids]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][segments])
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."
        q, k, v = (
            linear(f"{layer}attention.self.{part}", x).reshape(len(at), heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]) + bias
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        attended = (shares @ v).swapaxes(0, 1).reshape(len(at), -1)
        x = norm(f"{layer}attention.output.LayerNorm", linear(f"{layer}attention.output.dense", attended) + x)
        gated, plain = np.split(linear(f"{layer}mlp.gated_layers", x), 2, axis=-1)
        x = norm(f"{layer}mlp.layernorm", linear(f"{layer}mlp.wo", gelu(gated) * plain) + x)
    return x
