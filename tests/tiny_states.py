"""Tiny random GGUF files of families with states in all layers, or in most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_granite_hybrid import add_mamba, add_mamba_sizes
from tiny_models import TinyShape, add_hyperparameters, add_tokenizer
from tiny_weights import random_matrix

STATE, RANK = 16, 24  # of Mamba's first version
FAMILIES = ("falcon-h1", "mamba2", "mamba", "jamba")
ATTENDING = (1,)  # layers of Jamba
MIXTURE = (2,)  # and those that have experts
EXPERTS = 4


def write_tiny_states(path: Path, family: str, *, normed: bool = False, **shape: Any) -> Path:
    """Write a GGUF file of one of `FAMILIES`; keywords are TinyShape's. Returns `path`.

    `normed`: steps, B and C of `mamba` are normed, as Falcon Mamba's are.
    """
    tiny = TinyShape(**{"layers": 3, **shape})
    writer = gguf.GGUFWriter(path, family)
    _add_sizes(writer, family, tiny, normed)
    add_tokenizer(writer, tiny.vocab, tiny.last_tokens)
    for name, values, kind in _tensors(tiny, family):
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_sizes(writer: gguf.GGUFWriter, family: str, tiny: TinyShape, normed: bool) -> None:
    add_hyperparameters(writer, tiny)
    keys = writer.kv_data[0]
    if family in ("mamba", "mamba2"):
        for key in [key for key in keys if ".rope." in key]:
            keys.pop(key)
        for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
            keys.pop(f"{family}.{key}")
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
    if family in ("mamba2", "falcon-h1"):
        add_mamba_sizes(writer)
        return
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(2 * tiny.hidden)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    if family == "mamba":
        writer.add_ssm_dt_b_c_rms(normed)
        return
    keys.pop(f"{family}.attention.head_count_kv")
    writer.add_head_count_kv([tiny.kv_heads if i in ATTENDING else 0 for i in range(tiny.layers)])
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)


def _tensors(shape: TinyShape, family: str) -> list[tuple[str, np.ndarray, str]]:
    rng = np.random.default_rng(shape.seed)
    out: list[tuple[str, np.ndarray, str]] = []

    def vector(name: str, *size: int, mean: float = 1.0, deviation: float = 0.2) -> None:
        out.append((name, rng.normal(mean, deviation, size).astype(np.float32), "F32"))

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0, experts: int = 0) -> None:
        values = random_matrix(rng, max(1, experts) * rows, cols, gain / cols**0.5, shape.kind)
        out.append((f"{name}.weight", values.reshape(experts, rows, -1) if experts else values, shape.kind))

    matrix("token_embd", shape.vocab, shape.hidden, 2.0)
    for i in range(shape.layers):
        layer = f"blk.{i}"
        vector(f"{layer}.attn_norm.weight", shape.hidden)
        attends = family == "falcon-h1" or (family == "jamba" and i in ATTENDING)
        if attends:
            _add_attention(layer, shape, matrix)
        if family in ("falcon-h1", "mamba2"):
            add_mamba(layer, shape.hidden, matrix, vector)
        elif not attends:
            _add_selective(layer, shape.hidden, family == "jamba", matrix, vector)
        if family in ("falcon-h1", "jamba"):
            vector(f"{layer}.ffn_norm" + (".weight" if family == "jamba" else ""), shape.hidden)
            _add_feed_forward(layer, shape, EXPERTS if family == "jamba" and i in MIXTURE else 0, matrix)
        if family == "jamba" and i in MIXTURE:
            vector(f"{layer}.ffn_gate_inp.weight", EXPERTS, shape.hidden, mean=0.0)
    vector("output_norm.weight", shape.hidden)
    if not shape.tied:
        matrix("output", shape.vocab, shape.hidden, 2.0)
    return out


def _add_attention(layer: str, shape: TinyShape, matrix: Callable[..., None]) -> None:
    queries = shape.heads * (shape.head_dim or shape.hidden // shape.heads)
    keys = queries // shape.heads * shape.kv_heads
    matrix(f"{layer}.attn_q", queries, shape.hidden, 1.5)
    matrix(f"{layer}.attn_k", keys, shape.hidden, 1.5)
    matrix(f"{layer}.attn_v", keys, shape.hidden)
    matrix(f"{layer}.attn_output", shape.hidden, queries, 2.0)


def _add_feed_forward(layer: str, shape: TinyShape, experts: int, matrix: Callable[..., None]) -> None:
    end = "_exps" if experts else ""
    matrix(f"{layer}.ffn_gate{end}", shape.ffn, shape.hidden, experts=experts)
    matrix(f"{layer}.ffn_up{end}", shape.ffn, shape.hidden, experts=experts)
    matrix(f"{layer}.ffn_down{end}", shape.hidden, shape.ffn, 2.0, experts=experts)


def _add_selective(
    layer: str, hidden: int, normed: bool, matrix: Callable[..., None], vector: Callable[..., None]
) -> None:
    """Numbers that are forgotten at once, and such as are kept for long."""
    inner = 2 * hidden
    matrix(f"{layer}.ssm_in", 2 * inner, hidden, 1.5)
    vector(f"{layer}.ssm_conv1d.weight", inner, 4, mean=0.3, deviation=0.5)
    vector(f"{layer}.ssm_conv1d.bias", inner, mean=0.0)
    matrix(f"{layer}.ssm_x", RANK + 2 * STATE, inner, 1.5)
    vector(f"{layer}.ssm_dt.weight", inner, RANK, mean=0.0)
    vector(f"{layer}.ssm_dt.bias", inner, mean=-2.0, deviation=2.0)
    vector(f"{layer}.ssm_a", inner, STATE, mean=-1.5, deviation=0.3)
    vector(f"{layer}.ssm_d", inner)
    if normed:
        for part, size in (("dt", RANK), ("b", STATE), ("c", STATE)):
            vector(f"{layer}.ssm_{part}_norm.weight", size)
    matrix(f"{layer}.ssm_out", hidden, inner, 2.0)
