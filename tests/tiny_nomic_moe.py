"""A tiny random nomic-bert with experts in a Hugging Face directory, and what it computes, in numpy.

Routing as nomic-ai publishes it: softmax over all experts, the largest of them as weights as they are.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tiny_encoders import BERT_VOCAB, write_json, write_safetensors

HIDDEN, LAYERS, HEADS, FFN, EXPERTS, USED, THETA = 64, 4, 4, 96, 5, 2, 1000.0


def write_tiny_nomic_moe(directory: Path, *, bias: bool = True) -> Path:
    """Layers 1 and 3 have experts; `bias` gives them a vector that may be missing. Returns `directory`."""
    rng = np.random.default_rng(17)
    tensors: dict[str, np.ndarray] = {}

    def normal(name: str, *shape: int, mean: float = 0.0, deviation: float = 0.1) -> None:
        tensors[name] = rng.normal(mean, deviation, shape).astype(np.float32)

    def linear(name: str, rows: int, columns: int) -> None:
        normal(f"{name}.weight", rows, columns, deviation=1.5 / columns**0.5)
        normal(f"{name}.bias", rows)

    def norm(name: str) -> None:
        normal(f"{name}.weight", HIDDEN, mean=1.0, deviation=0.2)
        normal(f"{name}.bias", HIDDEN)

    normal("embeddings.word_embeddings.weight", len(BERT_VOCAB), HIDDEN, deviation=1.0)
    normal("embeddings.token_type_embeddings.weight", 1, HIDDEN, deviation=0.3)
    norm("emb_ln")
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}."
        linear(f"{layer}attn.Wqkv", 3 * HIDDEN, HIDDEN)
        linear(f"{layer}attn.out_proj", HIDDEN, HIDDEN)
        norm(f"{layer}norm1")
        if i % 2:
            normal(f"{layer}mlp.router.layer.weight", EXPERTS, HIDDEN, deviation=0.3)
            for name in ("w1", "w2"):
                normal(f"{layer}mlp.experts.mlp.{name}", EXPERTS * FFN, HIDDEN, deviation=0.2)
            if bias:
                normal(f"{layer}mlp.experts.bias", HIDDEN)
        else:
            linear(f"{layer}mlp.fc1", FFN, HIDDEN)
            linear(f"{layer}mlp.fc2", HIDDEN, FFN)
        norm(f"{layer}norm2")
    config = {
        "model_type": "nomic_bert",
        "activation_function": "gelu",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "max_position_embeddings": 64,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-12,
        "num_experts": EXPERTS,
        "moe_top_k": USED,
        "moe_every_n_layers": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
    }
    write_json(directory / "config.json", config)
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


def hidden_states(tensors: dict[str, np.ndarray], token_ids: list[int]) -> np.ndarray:
    """float64 [tokens, HIDDEN]."""
    weights = {name: value.astype(np.float64) for name, value in tensors.items()}
    gelu = np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))), otypes=[float])

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        y: np.ndarray = x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)
        return y

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-12)
        y: np.ndarray = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        return y

    def mixture(layer: str, x: np.ndarray) -> np.ndarray:
        up = weights[f"{layer}mlp.experts.mlp.w1"].reshape(EXPERTS, FFN, HIDDEN)
        down = weights[f"{layer}mlp.experts.mlp.w2"].reshape(EXPERTS, FFN, HIDDEN)
        shares = np.exp(linear(f"{layer}mlp.router.layer", x))
        shares /= shares.sum(-1, keepdims=True)
        out = np.zeros_like(x)
        for row, share in enumerate(shares):
            for e in np.argsort(-share, kind="stable")[:USED]:
                out[row] += share[e] * (gelu(up[e] @ x[row]) @ down[e])
        return out + weights.get(f"{layer}mlp.experts.bias", 0.0)

    at = np.arange(len(token_ids))
    x = weights["embeddings.word_embeddings.weight"][token_ids]
    x = norm("emb_ln", x + weights["embeddings.token_type_embeddings.weight"][0])
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}."
        q, k, v = linear(f"{layer}attn.Wqkv", x).reshape(len(at), 3, HEADS, -1).transpose(1, 2, 0, 3)
        scores = rotate(q, at) @ rotate(k, at).swapaxes(1, 2) / math.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        attended = (shares @ v).swapaxes(0, 1).reshape(len(at), -1)
        x = norm(f"{layer}norm1", x + linear(f"{layer}attn.out_proj", attended))
        plain = linear(f"{layer}mlp.fc2", gelu(linear(f"{layer}mlp.fc1", x))) if i % 2 == 0 else None
        x = norm(f"{layer}norm2", x + (mixture(layer, x) if plain is None else plain))
    return x


def rotate(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Halves (i, i + d/2) of each head (Su et al. 2021)."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * THETA ** (-np.arange(half) / half)
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
