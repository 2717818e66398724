"""A tiny random DeBERTa in a Hugging Face directory, written without torch, and numpy's answer to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tiny_encoders import BERT_VOCAB, write_bert_tokenizer, write_json, write_safetensors

HIDDEN, HEADS, FFN, LAYERS, CONTEXT, SPAN = 64, 4, 96, 2, 128, 16
EPSILON = 1e-7
_LINEARS = {
    "attention.self.query_proj": (HIDDEN, HIDDEN),
    "attention.self.key_proj": (HIDDEN, HIDDEN),
    "attention.self.value_proj": (HIDDEN, HIDDEN),
    "attention.output.dense": (HIDDEN, HIDDEN),
    "intermediate.dense": (FFN, HIDDEN),
    "output.dense": (HIDDEN, FFN),
}


def write_tiny_deberta(directory: Path, *, labels: int = 0, **changed: Any) -> Path:
    """As `transformers` saves it; `changed` are keys of config.json. Returns `directory`."""
    config = {
        "architectures": ["DebertaV2ForSequenceClassification" if labels else "DebertaV2Model"],
        "model_type": "deberta-v2",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "max_position_embeddings": CONTEXT,
        "vocab_size": len(BERT_VOCAB),
        "layer_norm_eps": EPSILON,
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "position_buckets": SPAN,
        "norm_rel_ebd": "layer_norm",
        "hidden_act": "gelu",
        "pooler_hidden_act": "gelu",
        "type_vocab_size": 0,
        **changed,
    }
    write_json(directory / "config.json", config)
    write_safetensors(directory / "model.safetensors", _tensors("deberta." if labels else "", labels))
    write_bert_tokenizer(directory, max_tokens=CONTEXT)
    return directory


def _tensors(prefix: str, labels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, size: float = 0.3, around: float = 0.0) -> None:
        tensors[name] = (around + size * rng.standard_normal(shape)).astype(np.float32)

    def norm(name: str) -> None:
        add(f"{name}.weight", HIDDEN, size=0.1, around=1.0)
        add(f"{name}.bias", HIDDEN, size=0.1)

    add(f"{prefix}embeddings.word_embeddings.weight", len(BERT_VOCAB), HIDDEN)
    norm(f"{prefix}embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"{prefix}encoder.layer.{i}."
        for name, shape in _LINEARS.items():
            add(f"{layer}{name}.weight", *shape)
            add(f"{layer}{name}.bias", shape[0])
        norm(f"{layer}attention.output.LayerNorm")
        norm(f"{layer}output.LayerNorm")
    add(f"{prefix}encoder.rel_embeddings.weight", 2 * SPAN, HIDDEN)
    norm(f"{prefix}encoder.LayerNorm")
    if labels:
        add("pooler.dense.weight", HIDDEN, HIDDEN)
        add("pooler.dense.bias", HIDDEN)
        add("classifier.weight", labels, HIDDEN)
        add("classifier.bias", labels)
    return tensors


def bucket(distance: int) -> int:
    """The row of a distance between query and key, as the paper's code counts them."""
    half = SPAN // 2
    row = distance
    if abs(distance) > half:
        steps = math.log(abs(distance) / half) / math.log((CONTEXT - 1) / half) * (half - 1)
        row = (math.ceil(round(steps, 5)) + half) * (1 if distance > 0 else -1)
    return min(max(row + SPAN, 0), 2 * SPAN - 1)


def hidden_states(
    tensors: Mapping[str, np.ndarray], ids: list[int], kinds: tuple[str, ...] = ("c2p", "p2c")
) -> np.ndarray:
    """float64 [tokens, hidden]."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return np.asarray(x @ tensors[f"{name}.weight"].T.astype(np.float64) + tensors[f"{name}.bias"])

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
        return np.asarray(scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"])

    def of_head(x: np.ndarray, head: int) -> np.ndarray:
        return x[:, head * HIDDEN // HEADS : (head + 1) * HIDDEN // HEADS]

    n = len(ids)
    rows = np.array([[bucket(i - j) for j in range(n)] for i in range(n)])
    positions = norm(tensors["encoder.rel_embeddings.weight"].astype(np.float64), "encoder.LayerNorm")
    x = norm(tensors["embeddings.word_embeddings.weight"][ids].astype(np.float64), "embeddings.LayerNorm")
    scale = (HIDDEN / HEADS * (1 + len(kinds))) ** -0.5
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."
        query, key = f"{layer}attention.self.query_proj", f"{layer}attention.self.key_proj"
        queries, keys = linear(x, query), linear(x, key)
        values = linear(x, f"{layer}attention.self.value_proj")
        attended = np.empty_like(x)
        for head in range(HEADS):
            q, k, v = of_head(queries, head), of_head(keys, head), of_head(values, head)
            scores = q @ k.T
            if "c2p" in kinds:
                scores += np.take_along_axis(q @ of_head(linear(positions, key), head).T, rows, 1)
            if "p2c" in kinds:
                scores += np.take_along_axis(k @ of_head(linear(positions, query), head).T, rows.T, 1).T
            weights = np.exp(scores * scale - (scores * scale).max(1, keepdims=True))
            of_head(attended, head)[:] = weights / weights.sum(1, keepdims=True) @ v
        x = norm(x + linear(attended, f"{layer}attention.output.dense"), f"{layer}attention.output.LayerNorm")
        up = linear(x, f"{layer}intermediate.dense")
        up = up * 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
        x = norm(x + linear(up, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    return x
