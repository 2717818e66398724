"""Tiny random models of the lfm2 families: a GGUF file, and a directory with the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_models import TinyShape, add_hyperparameters, add_tokenizer
from tiny_weights import random_matrix

from llm_serving.checkpoints import dequantize, open_checkpoint

ATTENDING = (2, 4)
DENSE = 2  # layers without experts, where there are some
_TOP = {"token_embd": "model.embed_tokens", "token_embd_norm": "model.embedding_norm", "output": "lm_head"}
_PARTS = {
    "attn_norm": "operator_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.conv": "conv.conv",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
    "ffn_gate_inp": "feed_forward.gate",
    "ffn_gate_exps": "feed_forward.experts.{e}.w1",
    "ffn_up_exps": "feed_forward.experts.{e}.w3",
    "ffn_down_exps": "feed_forward.experts.{e}.w2",
}


def write_tiny_lfm2(path: Path, taps: int = 3, attending: tuple[int, ...] = ATTENDING, **shape: Any) -> Path:
    """Write a GGUF file; keywords are TinyShape's, and which layers are attention. Returns `path`.

    With `experts` it is a mixture.
    """
    tiny = TinyShape(**{"layers": 5, "rope_base": 1000000.0, **shape})
    writer = gguf.GGUFWriter(path, family := "lfm2moe" if tiny.experts else "lfm2")
    add_hyperparameters(writer, tiny)
    key_heads = [tiny.kv_heads if i in attending else 0 for i in range(tiny.layers)]
    writer.kv_data[0].pop(f"{family}.attention.head_count_kv")
    if tiny.experts:
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_leading_dense_block_count(DENSE)
    writer.add_head_count_kv(key_heads)
    writer.add_shortconv_l_cache(taps)
    add_tokenizer(writer, tiny.vocab, tiny.last_tokens)
    for name, values, kind in _tensors(tiny, taps, attending):
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(shape: TinyShape, taps: int, attending: tuple[int, ...]) -> list[tuple[str, np.ndarray, str]]:
    rng = np.random.default_rng(shape.seed)
    head_dim = shape.head_dim or shape.hidden // shape.heads
    queries, keys = shape.heads * head_dim, shape.kv_heads * head_dim
    out: list[tuple[str, np.ndarray, str]] = []

    def vector(name: str, size: int, mean: float = 1.0) -> None:
        out.append((f"{name}.weight", rng.normal(mean, 0.2, size).astype(np.float32), "F32"))

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0, experts: int = 0) -> None:
        values = random_matrix(rng, max(1, experts) * rows, cols, gain / cols**0.5, shape.kind)
        if experts:
            name, values = f"{name}_exps", values.reshape(experts, rows, -1)
        out.append((f"{name}.weight", values, shape.kind))

    matrix("token_embd", shape.vocab, shape.hidden, 2.0)
    for i in range(shape.layers):
        layer = f"blk.{i}."
        vector(f"{layer}attn_norm", shape.hidden)
        if i in attending:
            matrix(f"{layer}attn_q", queries, shape.hidden)
            matrix(f"{layer}attn_k", keys, shape.hidden)
            matrix(f"{layer}attn_v", keys, shape.hidden)
            matrix(f"{layer}attn_output", shape.hidden, queries)
            vector(f"{layer}attn_q_norm", head_dim, 1.5)
            vector(f"{layer}attn_k_norm", head_dim, 1.5)
        else:
            matrix(f"{layer}shortconv.in_proj", 3 * shape.hidden, shape.hidden, 1.5)
            weights = rng.normal(0, 1, (shape.hidden, taps)).astype(np.float32)
            out.append((f"{layer}shortconv.conv.weight", weights, "F32"))
            matrix(f"{layer}shortconv.out_proj", shape.hidden, shape.hidden)
        vector(f"{layer}ffn_norm", shape.hidden)
        experts = shape.experts if i >= DENSE else 0
        if experts:
            router = rng.normal(0, 2 / shape.hidden**0.5, (experts, shape.hidden)).astype(np.float32)
            out.append((f"{layer}ffn_gate_inp.weight", router, "F32"))
            out.append((f"{layer}exp_probs_b.bias", rng.normal(0, 0.2, experts).astype(np.float32), "F32"))
        matrix(f"{layer}ffn_gate", shape.ffn, shape.hidden, experts=experts)
        matrix(f"{layer}ffn_up", shape.ffn, shape.hidden, experts=experts)
        matrix(f"{layer}ffn_down", shape.hidden, shape.ffn, 2.0, experts=experts)
    vector("token_embd_norm", shape.hidden)
    if not shape.tied:
        matrix("output", shape.vocab, shape.hidden, 2.0)
    return out


def write_lfm2_directory(directory: Path, path: Path, **config: Any) -> Path:
    """The model of such a GGUF file as a directory; keywords go into its config.json."""
    checkpoint = open_checkpoint(path)
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        stem = name.removesuffix(".weight")
        values = dequantize(tensor).astype(np.float32)
        if stem in _TOP:
            tensors[f"{_TOP[stem]}.weight"] = values
            continue
        _, index, part = stem.split(".", 2)
        if part == "exp_probs_b.bias":
            tensors[f"model.layers.{index}.feed_forward.expert_bias"] = values
            continue
        if part.endswith("exps"):
            for e, own in enumerate(values):
                tensors[f"model.layers.{index}.{_PARTS[part].format(e=e)}.weight"] = own
            continue
        # A convolution is [channels, 1, taps] there.
        tensors[f"model.layers.{index}.{_PARTS[part]}.weight"] = (
            values[:, None] if part.endswith("conv") else values
        )
    heads = checkpoint.hyper("attention.head_count_kv").tolist()
    experts = {
        "model_type": "lfm2_moe",
        "intermediate_size": checkpoint.hyper("feed_forward_length"),
        "moe_intermediate_size": checkpoint.hyper("expert_feed_forward_length"),
        "num_experts": checkpoint.hyper("expert_count"),
        "num_experts_per_tok": checkpoint.hyper("expert_used_count"),
        "num_dense_layers": DENSE,
    }
    facts = {
        "model_type": "lfm2",
        "hidden_size": checkpoint.hyper("embedding_length"),
        "block_ff_dim": 2 * checkpoint.hyper("feed_forward_length"),  # before it is cut to two thirds
        "num_hidden_layers": len(heads),
        "num_attention_heads": checkpoint.hyper("attention.head_count"),
        "num_key_value_heads": max(heads),
        "layer_types": ["full_attention" if count else "conv" for count in heads],
        "conv_L_cache": checkpoint.hyper("shortconv.l_cache"),
        "max_position_embeddings": checkpoint.hyper("context_length"),
        "norm_eps": float(checkpoint.hyper("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(checkpoint.hyper("rope.freq_base")),
        "tie_embedding": "output.weight" not in checkpoint.tensors,
        "vocab_size": checkpoint.tensor("token_embd.weight").shape[0],
    }
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(
        directory / "config.json",
        {**facts, **(experts if checkpoint.hyper("expert_count") else {}), **config},
    )
    write_tokenizer(directory, facts["vocab_size"])
    return directory
