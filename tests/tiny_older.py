"""Tiny GGUF files of older families, written as llama.cpp's converter names and orders them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_models import SMALLEST_VOCAB, add_tokenizer, random_matrix

HIDDEN, HEADS, FFN, LAYERS = 96, 3, 160, 2


@dataclass(frozen=True)
class Older:
    """How files of a family differ from GPT-2's."""

    kv_heads: int = HEADS
    positions: bool = True
    words_norm: bool = False
    biased: bool = True
    norm_bias: bool = True
    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    keys: dict[str, Any] = field(default_factory=dict)


OLDER = {
    "gpt2": Older(),
    "starcoder": Older(kv_heads=1),
    "bloom": Older(positions=False, words_norm=True),
    "mpt": Older(
        positions=False,
        biased=False,
        norm_bias=False,
        keys={"attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 1.5},
    ),
    "falcon": Older(kv_heads=1, positions=False, biased=False, norms=("attn_norm", "attn_norm_2")),
}


def write_tiny_older(path: Path, family: str, *, context: int = 1024, kind: str = "F32") -> Path:
    """Returns `path`. Matrices are of this kind, positions in F32."""
    own, rng = OLDER[family], np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(own.kv_heads)
    writer.add_layer_norm_eps(1e-5)
    for key, value in own.keys.items():
        writer.add_float32(f"{family}.{key}", value)
    add_tokenizer(writer, SMALLEST_VOCAB)

    def matrix(name: str, rows: int, columns: int, gain: float, biased: bool = False) -> None:
        values = random_matrix(rng, rows, columns, gain / columns**0.5, kind)
        quantized = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(f"{name}.weight", values, raw_dtype=None if kind == "F32" else quantized)
        if biased:
            writer.add_tensor(f"{name}.bias", rng.normal(0, 0.3, rows).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", rng.normal(1, 0.2, HIDDEN).astype(np.float32))
        if own.norm_bias:
            writer.add_tensor(f"{name}.bias", rng.normal(0, 0.2, HIDDEN).astype(np.float32))

    matrix("token_embd", SMALLEST_VOCAB, HIDDEN, 2.0)
    if own.positions:
        writer.add_tensor("position_embd.weight", rng.normal(0, 0.2, (context, HIDDEN)).astype(np.float32))
    if own.words_norm:
        norm("token_embd_norm")
    for i in range(LAYERS):
        for name in own.norms:
            norm(f"blk.{i}.{name}")
        qkv = HIDDEN + 2 * own.kv_heads * HIDDEN // HEADS
        matrix(f"blk.{i}.attn_qkv", qkv, HIDDEN, 1.4, own.biased)
        matrix(f"blk.{i}.attn_output", HIDDEN, HIDDEN, 1.0, own.biased)
        matrix(f"blk.{i}.ffn_up", FFN, HIDDEN, 1.0, own.biased)
        matrix(f"blk.{i}.ffn_down", HIDDEN, FFN, 2.0, own.biased)
    norm("output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
