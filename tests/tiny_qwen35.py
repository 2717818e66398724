"""Tiny random models of the qwen35 family: a GGUF file, and a directory with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_models import TinyShape, add_hyperparameters, add_tokenizer
from tiny_weights import random_matrix

from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint

HEAD_DIM, ROTATED = 32, 8
KEYS, VALUES = 2, 6  # heads of the delta rule
KEY_DIM, VALUE_DIM = 32, 64
CHANNELS, OUTPUTS = 2 * KEYS * KEY_DIM + VALUES * VALUE_DIM, VALUES * VALUE_DIM
_TOP = {"token_embd": "embed_tokens", "output_norm": "norm"}
_PARTS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_qkv.weight": "linear_attn.in_proj_qkv.weight",
    "attn_gate.weight": "linear_attn.in_proj_z.weight",
    "ssm_beta.weight": "linear_attn.in_proj_b.weight",
    "ssm_alpha.weight": "linear_attn.in_proj_a.weight",
    "ssm_conv1d.weight": "linear_attn.conv1d.weight",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_norm.weight": "linear_attn.norm.weight",
    "ssm_out.weight": "linear_attn.out_proj.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def write_tiny_qwen35(path: Path, *, drafting: int = 0, **shape: Any) -> Path:
    """Write a GGUF file, of four layers the last is attention; keywords are TinyShape's. Returns `path`.

    `drafting` layers more are for drafts (MTP), and nothing in the engine reads them.
    """
    tiny = TinyShape(**{"layers": 4, "rope_base": 1e7, "head_dim": HEAD_DIM, **shape})
    writer = gguf.GGUFWriter(path, "qwen35")
    add_hyperparameters(writer, tiny, ROTATED)
    writer.add_rope_dimension_sections([2, 1, 1, 0])
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_state_size(KEY_DIM)
    writer.add_ssm_group_count(KEYS)
    writer.add_ssm_time_step_rank(VALUES)
    writer.add_ssm_inner_size(OUTPUTS)
    writer.add_full_attention_interval(4)
    if drafting:
        writer.add_nextn_predict_layers(drafting)
        writer.add_block_count(tiny.layers + drafting)
    add_tokenizer(writer, tiny.vocab, tiny.last_tokens)
    for name, values, kind in _tensors(tiny):
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(shape: TinyShape) -> list[tuple[str, np.ndarray, str]]:
    rng = np.random.default_rng(shape.seed)
    out: list[tuple[str, np.ndarray, str]] = []

    def vector(name: str, *size: int, mean: float = 1.0, deviation: float = 0.2) -> None:
        out.append((name, rng.normal(mean, deviation, size).astype(np.float32), "F32"))

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0) -> None:
        kind = shape.kinds.get(name.rsplit(".", 1)[-1]) or shape.kind
        out.append((f"{name}.weight", random_matrix(rng, rows, cols, gain / cols**0.5, kind), kind))

    matrix("token_embd", shape.vocab, shape.hidden, 2.0)
    for i in range(shape.layers):
        layer = f"blk.{i}"
        vector(f"{layer}.attn_norm.weight", shape.hidden)
        mix = _attention if i % 4 == 3 else _delta
        mix(layer, shape, matrix, vector)
        vector(f"{layer}.post_attention_norm.weight", shape.hidden)
        matrix(f"{layer}.ffn_gate", shape.ffn, shape.hidden)
        matrix(f"{layer}.ffn_up", shape.ffn, shape.hidden)
        matrix(f"{layer}.ffn_down", shape.hidden, shape.ffn, 2.0)
    vector("output_norm.weight", shape.hidden)
    if not shape.tied:
        matrix("output", shape.vocab, shape.hidden, 2.0)
    return out


def _attention(
    layer: str, shape: TinyShape, matrix: Callable[..., None], vector: Callable[..., None]
) -> None:
    queries, keys = shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM
    matrix(f"{layer}.attn_q", 2 * queries, shape.hidden, 1.5)
    matrix(f"{layer}.attn_k", keys, shape.hidden, 1.5)
    matrix(f"{layer}.attn_v", keys, shape.hidden)
    vector(f"{layer}.attn_q_norm.weight", HEAD_DIM, mean=1.2)
    vector(f"{layer}.attn_k_norm.weight", HEAD_DIM, mean=1.2)
    matrix(f"{layer}.attn_output", shape.hidden, queries, 2.0)


def _delta(layer: str, shape: TinyShape, matrix: Callable[..., None], vector: Callable[..., None]) -> None:
    """Heads that forget at once, and heads that keep for long."""
    matrix(f"{layer}.attn_qkv", CHANNELS, shape.hidden, 1.5)
    matrix(f"{layer}.attn_gate", OUTPUTS, shape.hidden)
    matrix(f"{layer}.ssm_beta", VALUES, shape.hidden)
    matrix(f"{layer}.ssm_alpha", VALUES, shape.hidden)
    vector(f"{layer}.ssm_conv1d.weight", CHANNELS, 4, mean=0.3, deviation=0.5)
    vector(f"{layer}.ssm_dt.bias", VALUES, mean=-2.0, deviation=2.0)
    vector(f"{layer}.ssm_a", VALUES, mean=-1.0, deviation=0.3)
    vector(f"{layer}.ssm_norm.weight", VALUE_DIM)
    matrix(f"{layer}.ssm_out", shape.hidden, OUTPUTS, 2.0)


def write_qwen35_directory(directory: Path, path: Path, *, sees: bool = False, **config: Any) -> Path:
    """The model of such a GGUF file as a directory; keywords go into its config.json.

    Norms lose the one that a file adds, and value heads stand by their key heads. One that `sees` has the
    text model inside, and weights that nothing reads.
    """
    checkpoint = open_checkpoint(path)
    prefix = "model.language_model." if sees else "model."
    tensors = {}
    for name in checkpoint.tensors:
        stem, _, end = name.partition(".")
        values = dequantize(checkpoint.tensor(name))
        if stem == "output":
            tensors["lm_head.weight"] = values
            continue
        if stem in _TOP:
            own = f"{_TOP[stem]}.weight"
        else:
            index, _, part = end.partition(".")
            own = f"layers.{index}.{_PARTS[part]}"
            values = _grouped(part, values)
        if own.endswith("norm.weight") and "linear_attn" not in own:
            values = values - np.float32(1)
        tensors[prefix + own] = values
    if sees:
        tensors["model.visual.patch_embed.proj.weight"] = np.zeros((8, 8), np.float32)
        tensors["mtp.fc.weight"] = np.zeros((8, 8), np.float32)
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", _config(checkpoint, sees, config))
    write_tokenizer(directory, checkpoint.metadata["qwen35.vocab_size"])
    return directory


def _grouped(part: str, values: np.ndarray) -> np.ndarray:
    """Value heads [of each key head in turn] → [those of one key head together]."""
    if part == "ssm_a":
        values = np.log(-values)
    if part in ("ssm_a", "ssm_dt.bias", "ssm_beta.weight", "ssm_alpha.weight"):
        return _heads_first(values, 1)
    if part == "attn_gate.weight":
        return _heads_first(values, VALUE_DIM)
    if part in ("attn_qkv.weight", "ssm_conv1d.weight"):
        keys = 2 * KEYS * KEY_DIM
        values = np.concatenate([values[:keys], _heads_first(values[keys:], VALUE_DIM)])
        return values[:, None] if part.startswith("ssm") else values
    return _heads_first(values.T, VALUE_DIM).T if part == "ssm_out.weight" else values


def _heads_first(rows: np.ndarray, size: int) -> np.ndarray:
    each = rows.reshape(VALUES // KEYS, KEYS, size, -1)
    return np.ascontiguousarray(each.swapaxes(0, 1)).reshape(rows.shape)


def _config(checkpoint: Checkpoint, sees: bool, config: dict[str, Any]) -> dict[str, Any]:
    text = {
        "model_type": "qwen3_5_text",
        "hidden_size": checkpoint.hyper("embedding_length"),
        "intermediate_size": checkpoint.hyper("feed_forward_length"),
        "num_hidden_layers": checkpoint.hyper("block_count"),
        "num_attention_heads": checkpoint.hyper("attention.head_count"),
        "num_key_value_heads": checkpoint.hyper("attention.head_count_kv"),
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": checkpoint.hyper("context_length"),
        "vocab_size": checkpoint.hyper("vocab_size"),
        "tie_word_embeddings": "output.weight" not in checkpoint.tensors,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e7,
            "partial_rotary_factor": ROTATED / HEAD_DIM,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
        "linear_conv_kernel_dim": 4,
        "linear_num_key_heads": KEYS,
        "linear_num_value_heads": VALUES,
        "linear_key_head_dim": KEY_DIM,
        "linear_value_head_dim": VALUE_DIM,
        **config,
    }
    return {"model_type": "qwen3_5", "text_config": text, "vision_config": {}} if sees else text
