"""A tiny random jina-bert-v2 in a Hugging Face directory, and what it computes, in numpy.

Written from the published description (Günther et al. 2023; ALiBi: Press et al. 2022).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tiny_encoders import BERT_VOCAB, write_bert_tokenizer, write_json, write_modules, write_safetensors

LAYERS, FFN, EPSILON = 2, 96, 1e-12
PLAIN = ("mlp.gated_layers", "mlp.wo", "mlp.layernorm")
CODE = ("mlp.up_gated_layer", "mlp.down_layer", "layer_norm_2")
CODE_NORMS = ("attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1")


def write_tiny_jina(
    directory: Path, *, hidden: int = 96, heads: int = 6, labels: int = 0, for_code: bool = False
) -> Path:
    """With `labels`, a cross-encoder, names begin with `bert.`; `for_code` is the variant of that name."""
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
        gated, down, last = CODE if for_code else PLAIN
        linear(layer + gated, 2 * FFN, hidden, bias=False)
        linear(layer + down, hidden, FFN)
        for name in (last, *(CODE_NORMS if for_code else ())):
            norm(layer + name)
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
        is_for_code = f"{layer}layer_norm_1.weight" in weights
        q, k, v = (linear(f"{layer}attention.self.{part}", x) for part in ("query", "key", "value"))
        if is_for_code:
            q, k = (norm(layer + name, y) for name, y in zip(CODE_NORMS, (q, k), strict=False))
        q, k, v = (y.reshape(len(at), heads, -1).swapaxes(0, 1) for y in (q, k, v))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]) + bias
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        attended = (shares @ v).swapaxes(0, 1).reshape(len(at), -1)
        output = linear(f"{layer}attention.output.dense", attended)
        normed = norm(f"{layer}attention.output.LayerNorm", output + x)
        x = norm(f"{layer}layer_norm_1", x + normed) if is_for_code else normed
        gated, down, last = CODE if is_for_code else PLAIN
        first, second = np.split(linear(layer + gated, x), 2, axis=-1)
        product = first * gelu(second) if is_for_code else gelu(first) * second
        x = norm(layer + last, linear(layer + down, product) + x)
    return x
