"""Tiny random models of Granite 4's hybrids: a GGUF file, and a directory with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_models import GRANITE_SCALES, TinyShape, add_hyperparameters, add_tokenizer
from tiny_weights import random_matrix

from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint

ATTENDING = (2,)
HEADS, HEAD_DIM, GROUPS, STATE = 4, 32, 2, 24  # of Mamba-2
INNER = HEADS * HEAD_DIM
CHANNELS = INNER + 2 * GROUPS * STATE
_TOP = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
_PARTS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ssm_in.weight": "mamba.in_proj.weight",
    "ssm_conv1d.weight": "mamba.conv1d.weight",
    "ssm_conv1d.bias": "mamba.conv1d.bias",
    "ssm_dt.bias": "mamba.dt_bias",
    "ssm_a": "mamba.A_log",
    "ssm_d": "mamba.D",
    "ssm_norm.weight": "mamba.norm.weight",
    "ssm_out.weight": "mamba.out_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate_inp.weight": "block_sparse_moe.router.layer.weight",
    "ffn_down_exps.weight": "block_sparse_moe.output_linear.weight",
    "ffn_down_shexp.weight": "shared_mlp.output_linear.weight",
    "ffn_down.weight": "shared_mlp.output_linear.weight",
}
_FUSED = {"": "shared_mlp", "_shexp": "shared_mlp", "_exps": "block_sparse_moe"}


def write_tiny_granite_hybrid(path: Path, *, rotates: bool = False, **shape: Any) -> Path:
    """Write a GGUF file, of four layers the third is attention; keywords are TinyShape's. Returns `path`.

    With `experts` it is a mixture, with an expert for all tokens beside them.
    """
    tiny = TinyShape(**{"layers": 4, **shape})
    writer = gguf.GGUFWriter(path, "granitehybrid")
    add_hyperparameters(writer, tiny)
    writer.kv_data[0].pop("granitehybrid.attention.head_count_kv")
    writer.add_head_count_kv([tiny.kv_heads if i in ATTENDING else 0 for i in range(tiny.layers)])
    writer.add_rope_scaling_finetuned(rotates)
    add_mamba_sizes(writer)
    for key, value in GRANITE_SCALES.items():
        writer.add_float32(f"granitehybrid.{key}", value)
    add_tokenizer(writer, tiny.vocab, tiny.last_tokens)
    for name, values, kind in _tensors(tiny):
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_mamba_sizes(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_group_count(GROUPS)
    writer.add_ssm_time_step_rank(HEADS)
    writer.add_ssm_inner_size(INNER)


def _tensors(shape: TinyShape) -> list[tuple[str, np.ndarray, str]]:
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
        if i in ATTENDING:
            queries = shape.heads * (shape.head_dim or shape.hidden // shape.heads)
            keys = queries // shape.heads * shape.kv_heads
            matrix(f"{layer}.attn_q", queries, shape.hidden, 1.5)
            matrix(f"{layer}.attn_k", keys, shape.hidden, 1.5)
            matrix(f"{layer}.attn_v", keys, shape.hidden)
            matrix(f"{layer}.attn_output", shape.hidden, queries, 2.0)
        else:
            add_mamba(layer, shape.hidden, matrix, vector)
        vector(f"{layer}.ffn_norm.weight", shape.hidden)
        for end, experts in (("_exps", shape.experts), ("_shexp", 0)) if shape.experts else (("", 0),):
            matrix(f"{layer}.ffn_gate{end}", shape.ffn, shape.hidden, experts=experts)
            matrix(f"{layer}.ffn_up{end}", shape.ffn, shape.hidden, experts=experts)
            matrix(f"{layer}.ffn_down{end}", shape.hidden, shape.ffn, 2.0, experts=experts)
        if shape.experts:
            vector(f"{layer}.ffn_gate_inp.weight", shape.experts, shape.hidden, mean=0.0)
    vector("output_norm.weight", shape.hidden)
    if not shape.tied:
        matrix("output", shape.vocab, shape.hidden, 2.0)
    return out


def add_mamba(layer: str, hidden: int, matrix: Callable[..., None], vector: Callable[..., None]) -> None:
    """Heads that forget at once, and heads that keep for long."""
    matrix(f"{layer}.ssm_in", INNER + CHANNELS + HEADS, hidden, 1.5)
    vector(f"{layer}.ssm_conv1d.weight", CHANNELS, 4, mean=0.3, deviation=0.5)
    vector(f"{layer}.ssm_conv1d.bias", CHANNELS, mean=0.0)
    vector(f"{layer}.ssm_dt.bias", HEADS, mean=-2.0, deviation=2.0)
    vector(f"{layer}.ssm_a", HEADS, 1, mean=-1.0, deviation=0.3)
    vector(f"{layer}.ssm_d", HEADS, 1)
    vector(f"{layer}.ssm_norm.weight", GROUPS, INNER // GROUPS)
    matrix(f"{layer}.ssm_out", hidden, INNER, 2.0)


def write_granite_hybrid_directory(directory: Path, path: Path, **config: Any) -> Path:
    """The model of such a GGUF file as a directory; keywords go into its config.json.

    Gates and what they open are one matrix there, and heads of attention do not stand in pairs.
    """
    checkpoint = open_checkpoint(path)
    tensors, values = {}, {name: dequantize(each) for name, each in checkpoint.tensors.items()}
    for name, own in values.items():
        if name in _TOP:
            tensors[f"model.{_TOP[name]}"] = own
        elif name == "output.weight":
            tensors["lm_head.weight"] = own
        else:
            _, index, part = name.split(".", 2)
            layer = f"model.layers.{index}."
            if part in _PARTS:
                tensors[layer + _PARTS[part]] = _as_directories_have(part, own, checkpoint)
            elif part.startswith("ffn_up"):
                end = part.removeprefix("ffn_up").removesuffix(".weight")
                gate = values[name.replace("ffn_up", "ffn_gate")]
                tensors[f"{layer}{_FUSED[end]}.input_linear.weight"] = np.concatenate([gate, own], axis=-2)
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", {**_config(checkpoint), **config})
    write_tokenizer(directory, checkpoint.hyper("vocab_size"))
    return directory


def _as_directories_have(part: str, values: np.ndarray, checkpoint: Checkpoint) -> np.ndarray:
    if part in ("attn_q.weight", "attn_k.weight"):
        heads = checkpoint.hyper("attention.head_count")
        if part == "attn_k.weight":
            heads = int(checkpoint.hyper("attention.head_count_kv").max())
        return values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
    return mamba_as_directories_have(part, values)


def mamba_as_directories_have(part: str, values: np.ndarray) -> np.ndarray:
    if part == "ssm_a":
        return np.log(-values.reshape(-1))
    if part == "ssm_conv1d.weight":
        return values[:, None]
    return values.reshape(-1) if part in ("ssm_d", "ssm_norm.weight") else values


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    heads = checkpoint.hyper("attention.head_count_kv").tolist()
    ffn = checkpoint.hyper("feed_forward_length")
    return {
        "model_type": "granitemoehybrid",
        "hidden_size": checkpoint.hyper("embedding_length"),
        "intermediate_size": ffn,
        "shared_intermediate_size": ffn,
        "num_local_experts": checkpoint.hyper("expert_count") or 0,
        "num_experts_per_tok": checkpoint.hyper("expert_used_count") or 0,
        "num_hidden_layers": len(heads),
        "num_attention_heads": checkpoint.hyper("attention.head_count"),
        "num_key_value_heads": max(heads),
        "layer_types": ["attention" if count else "mamba" for count in heads],
        "position_embedding_type": "rope" if checkpoint.hyper("rope.scaling.finetuned") else "nope",
        "rope_theta": float(checkpoint.hyper("rope.freq_base")),
        "max_position_embeddings": checkpoint.hyper("context_length"),
        "rms_norm_eps": float(checkpoint.hyper("attention.layer_norm_rms_epsilon")),
        "mamba_n_heads": HEADS,
        "mamba_d_head": HEAD_DIM,
        "mamba_n_groups": GROUPS,
        "mamba_d_state": STATE,
        "mamba_d_conv": 4,
        "mamba_expand": INNER // checkpoint.hyper("embedding_length"),
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "embedding_multiplier": GRANITE_SCALES["embedding_scale"],
        "attention_multiplier": GRANITE_SCALES["attention.scale"],
        "residual_multiplier": GRANITE_SCALES["residual_scale"],
        "logits_scaling": GRANITE_SCALES["logit_scale"],
        "tie_word_embeddings": "output.weight" not in checkpoint.tensors,
        "vocab_size": checkpoint.hyper("vocab_size"),
    }
