"""Tiny random models of the gpt-oss family: a GGUF file, and a directory with the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_models import TinyShape, add_hyperparameters, add_tokenizer
from tiny_weights import random_matrix

from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint

YARN = {"factor": 8.0, "original_max_position_embeddings": 64}
_PARTS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_sinks.weight": "self_attn.sinks",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate_inp": "mlp.router",
}


def write_tiny_gpt_oss(path: Path, window: int = 32, **shape: Any) -> Path:
    """Write a GGUF file of 6 experts a layer; keywords are TinyShape's, and the window. Returns `path`."""
    tiny = TinyShape(**{"experts": 6, "used": 3, "rope_base": 150000.0, "tied": False, **shape})
    writer = gguf.GGUFWriter(path, "gpt-oss")
    add_hyperparameters(writer, tiny)
    writer.add_sliding_window(window)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(YARN["factor"])
    writer.add_rope_scaling_orig_ctx_len(int(YARN["original_max_position_embeddings"]))
    add_tokenizer(writer, tiny.vocab, tiny.last_tokens)
    for name, values, kind in _tensors(tiny):
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(shape: TinyShape) -> list[tuple[str, np.ndarray, str]]:
    """Sinks about as large as scores, biases about as large as what they are added to."""
    rng = np.random.default_rng(shape.seed)
    head_dim = shape.head_dim or shape.hidden // shape.heads
    queries, keys = shape.heads * head_dim, shape.kv_heads * head_dim
    out: list[tuple[str, np.ndarray, str]] = []

    def vector(name: str, *size: int, mean: float = 0.0, deviation: float = 0.5) -> None:
        out.append((name, rng.normal(mean, deviation, size).astype(np.float32), "F32"))

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0, experts: int = 0) -> None:
        kind = shape.kinds.get(name.rsplit(".", 1)[-1]) or shape.kind
        values = random_matrix(rng, max(1, experts) * rows, cols, gain / cols**0.5, kind)
        out.append((f"{name}.weight", values.reshape(experts, rows, -1) if experts else values, kind))
        if name.startswith("blk."):
            vector(f"{name}.bias", *((experts, rows) if experts else (rows,)))

    matrix("token_embd", shape.vocab, shape.hidden, 2.0)
    for i in range(shape.layers):
        layer = f"blk.{i}"
        vector(f"{layer}.attn_norm.weight", shape.hidden, mean=1.0, deviation=0.2)
        matrix(f"{layer}.attn_q", queries, shape.hidden, 1.5)
        matrix(f"{layer}.attn_k", keys, shape.hidden, 1.5)
        matrix(f"{layer}.attn_v", keys, shape.hidden)
        matrix(f"{layer}.attn_output", shape.hidden, queries)
        vector(f"{layer}.attn_sinks.weight", shape.heads, mean=2.0, deviation=2.0)
        vector(f"{layer}.post_attention_norm.weight", shape.hidden, mean=1.0, deviation=0.2)
        router = rng.normal(0, 2 / shape.hidden**0.5, (shape.experts, shape.hidden))
        out.append((f"{layer}.ffn_gate_inp.weight", router.astype(np.float32), "F32"))
        vector(f"{layer}.ffn_gate_inp.bias", shape.experts)
        # So large that gates and what they open are cut off at times.
        matrix(f"{layer}.ffn_gate_exps", shape.ffn, shape.hidden, 4.0, shape.experts)
        matrix(f"{layer}.ffn_up_exps", shape.ffn, shape.hidden, 4.0, shape.experts)
        matrix(f"{layer}.ffn_down_exps", shape.hidden, shape.ffn, 0.5, shape.experts)
    vector("output_norm.weight", shape.hidden, mean=1.0, deviation=0.2)
    if not shape.tied:
        matrix("output", shape.vocab, shape.hidden, 2.0)
    return out


def write_gpt_oss_directory(directory: Path, path: Path, *, bfloat16: bool = False, **config: Any) -> Path:
    """The model of such a GGUF file as a directory; keywords go into its config.json.

    Experts are floats [inputs, outputs] as transformers writes them, or if the file has them in MXFP4, that.
    """
    checkpoint = open_checkpoint(path)
    tensors = {
        "model.embed_tokens.weight": _values(checkpoint, "token_embd.weight"),
        "model.norm.weight": _values(checkpoint, "output_norm.weight"),
    }
    if "output.weight" in checkpoint.tensors:
        tensors["lm_head.weight"] = _values(checkpoint, "output.weight")
    for i in range(checkpoint.hyper("block_count")):
        for part, own in _PARTS.items():
            for end in ("",) if part.endswith(".weight") else (".weight", ".bias"):
                tensors[f"model.layers.{i}.{own}{end}"] = _values(checkpoint, f"blk.{i}.{part}{end}")
        tensors |= _experts(checkpoint, i)
    write_safetensors(directory / "model.safetensors", tensors, bfloat16=bfloat16)
    write_json(directory / "config.json", {**_config(checkpoint), **config})
    write_tokenizer(directory, len(tensors["model.embed_tokens.weight"]))
    return directory


def _values(checkpoint: Checkpoint, name: str) -> np.ndarray:
    return dequantize(checkpoint.tensor(name))


def _experts(checkpoint: Checkpoint, i: int) -> dict[str, np.ndarray]:
    own = f"model.layers.{i}.mlp.experts."
    gate, up, down = (f"blk.{i}.ffn_{part}_exps" for part in ("gate", "up", "down"))
    biases = {
        f"{own}gate_up_proj_bias": _in_turn(*(_values(checkpoint, f"{name}.bias") for name in (gate, up))),
        f"{own}down_proj_bias": _values(checkpoint, f"{down}.bias"),
    }
    if checkpoint.tensor(f"{up}.weight").kind != "MXFP4":
        both = _in_turn(*(_values(checkpoint, f"{name}.weight") for name in (gate, up)))
        opened = _values(checkpoint, f"{down}.weight")
        matrices = {f"{own}gate_up_proj": both.swapaxes(1, 2), f"{own}down_proj": opened.swapaxes(1, 2)}
        return {**biases, **matrices}
    (gate_blocks, gate_scales), (up_blocks, up_scales), (down_blocks, down_scales) = (
        apart(checkpoint, f"{name}.weight") for name in (gate, up, down)
    )
    return {
        **biases,
        f"{own}gate_up_proj_blocks": _in_turn(gate_blocks, up_blocks),
        f"{own}gate_up_proj_scales": _in_turn(gate_scales, up_scales),
        f"{own}down_proj_blocks": down_blocks,
        f"{own}down_proj_scales": down_scales,
    }


def _in_turn(gates: np.ndarray, opened: np.ndarray) -> np.ndarray:
    """[experts, rows, …] of both to [experts, 2 * rows, …], a row of each in turn."""
    return np.stack([gates, opened], axis=2).reshape(len(gates), -1, *gates.shape[2:])


def apart(checkpoint: Checkpoint, name: str) -> tuple[np.ndarray, np.ndarray]:
    """An MXFP4 tensor's values [experts, rows, groups, 16] and exponents [experts, rows, groups].

    In a file byte i of a block has values i and 16 + i, here byte i of a group has values 2 i and 2 i + 1.
    """
    tensor = checkpoint.tensor(name)
    experts, rows, cols = tensor.shape
    blocks = tensor.data.reshape(experts, rows, cols // 32, 17)
    values = np.concatenate([blocks[..., 1:] % 16, blocks[..., 1:] // 16], axis=-1)
    return values[..., 0::2] + 16 * values[..., 1::2], blocks[..., 0]


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    layers = checkpoint.hyper("block_count")
    return {
        "model_type": "gpt_oss",
        "hidden_act": "silu",
        "hidden_size": checkpoint.hyper("embedding_length"),
        "intermediate_size": checkpoint.hyper("expert_feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": checkpoint.hyper("attention.head_count"),
        "num_key_value_heads": checkpoint.hyper("attention.head_count_kv"),
        "head_dim": checkpoint.hyper("rope.dimension_count"),
        "max_position_embeddings": checkpoint.hyper("context_length"),
        "rms_norm_eps": float(checkpoint.hyper("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(checkpoint.hyper("rope.freq_base")),
        "rope_scaling": {"rope_type": "yarn", "truncate": False, **YARN},
        "sliding_window": checkpoint.hyper("attention.sliding_window"),
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)],
        "num_local_experts": checkpoint.hyper("expert_count"),
        "num_experts_per_tok": checkpoint.hyper("expert_used_count"),
        "tie_word_embeddings": "output.weight" not in checkpoint.tensors,
        "vocab_size": checkpoint.tensor("token_embd.weight").shape[0],
    }
