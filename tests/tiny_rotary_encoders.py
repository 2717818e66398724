"""Tiny random encoders with rotary positions in Hugging Face directories, written without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_encoders import write_json, write_safetensors

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 64, 2, 4, 2, 32, 96, 300


def write_tiny_nomic(directory: Path) -> Path:
    """nomic-bert without biases but those of its norms. Returns `directory`."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCAB, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        **_norm("emb_ln"),
    }
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}."
        shapes |= {
            f"{layer}attn.Wqkv.weight": (3 * HIDDEN, HIDDEN),
            f"{layer}attn.out_proj.weight": (HIDDEN, HIDDEN),
            **_norm(f"{layer}norm1"),
            f"{layer}mlp.fc11.weight": (FFN, HIDDEN),
            f"{layer}mlp.fc12.weight": (FFN, HIDDEN),
            f"{layer}mlp.fc2.weight": (HIDDEN, FFN),
            **_norm(f"{layer}norm2"),
        }
    config = {
        "model_type": "nomic_bert",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": FFN,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    }
    return _write(directory, config, shapes)


def write_tiny_qwen3(directory: Path) -> Path:
    """Qwen3 whose heads are wider than the hidden size divided among them. Returns `directory`."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (VOCAB, HIDDEN), "norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        layer = f"layers.{i}."
        shapes |= {
            f"{layer}input_layernorm.weight": (HIDDEN,),
            f"{layer}self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            f"{layer}self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{layer}self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{layer}self_attn.q_norm.weight": (HEAD_DIM,),
            f"{layer}self_attn.k_norm.weight": (HEAD_DIM,),
            f"{layer}self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            f"{layer}post_attention_layernorm.weight": (HIDDEN,),
            f"{layer}mlp.gate_proj.weight": (FFN, HIDDEN),
            f"{layer}mlp.up_proj.weight": (FFN, HIDDEN),
            f"{layer}mlp.down_proj.weight": (HIDDEN, FFN),
        }
    config = {
        "model_type": "qwen3",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": FFN,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
    }
    return _write(directory, config, shapes)


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def _write(directory: Path, config: dict[str, object], shapes: dict[str, tuple[int, ...]]) -> Path:
    rng = np.random.default_rng(3)
    tensors = {}
    for name, shape in shapes.items():
        mean = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        deviation = 0.2 if len(shape) == 1 else 1.0 if "embed" in name else 1.5 / shape[1] ** 0.5
        tensors[name] = rng.normal(mean, deviation, shape).astype(np.float32)
    write_json(directory / "config.json", config)
    write_safetensors(directory / "model.safetensors", tensors)
    return directory
