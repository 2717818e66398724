"""Tiny random models of the gemma4 family: a GGUF file, and a directory with the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_models import SMALLEST_VOCAB, add_tokenizer
from tiny_weights import random_matrix

from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint

LOCAL, GLOBAL = "sliding_attention", "full_attention"
TURNING = 0.25  # of a head's frequencies in layers that see everything
TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}
PARTS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "layer_output_scale.weight": "layer_scalar",
    "inp_gate.weight": "per_layer_input_gate.weight",
    "proj.weight": "per_layer_projection.weight",
    "post_norm.weight": "post_per_layer_input_norm.weight",
    "post_ffw_norm_1.weight": "post_feedforward_layernorm_1.weight",
    "post_ffw_norm_2.weight": "post_feedforward_layernorm_2.weight",
    "pre_ffw_norm_2.weight": "pre_feedforward_layernorm_2.weight",
    "ffn_gate_inp.weight": "router.proj.weight",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj",
    "ffn_down_exps.weight": "experts.down_proj",
    "ffn_down_exps.scale": "router.per_expert_scale",
}


@dataclass(frozen=True)
class Gemma4Shape:
    """Every third layer sees everything; the last `shared` read what earlier ones keep."""

    kind: str = "Q8_0"
    layers: int = 7
    shared: int = 0
    inputs: int = 0  # for each layer
    experts: int = 0
    keys_are_values: bool = False  # in layers that see everything
    hidden: int = 64
    heads: int = 4
    ffn: int = 96
    head_dims: tuple[int, int] = (16, 32)  # of layers with a window, and of the others
    kv_heads: tuple[int, int] = (2, 1)
    window: int = 32
    context: int = 256
    vocab: int = SMALLEST_VOCAB
    seed: int = 0
    last_tokens: tuple[str, ...] = ()

    def is_global(self, layer: int) -> bool:
        return layer % 3 == 2

    def ffn_of(self, layer: int) -> int:
        return self.ffn * (2 if layer >= self.layers - self.shared else 1)


def write_tiny_gemma4(path: Path, window: int = 32, **shape: Any) -> Path:
    """Write a model as the small ones are; keywords are Gemma4Shape's, and the window. Returns `path`."""
    layers = shape.get("layers", 7)
    return _write(
        path, Gemma4Shape(**{"shared": 3 if layers > 5 else 0, "inputs": 32, "window": window, **shape})
    )


def write_tiny_gemma4_large(path: Path, window: int = 32, **shape: Any) -> Path:
    """Write a model as the large ones are, with experts; keywords as of the small ones. Returns `path`."""
    return _write(path, Gemma4Shape(**{"experts": 6, "keys_are_values": True, "window": window, **shape}))


def _write(path: Path, shape: Gemma4Shape) -> Path:
    writer = gguf.GGUFWriter(path, "gemma4")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(
        [shape.ffn_of(i) for i in range(shape.layers)] if shape.shared else shape.ffn
    )
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv([shape.kv_heads[shape.is_global(i)] for i in range(shape.layers)])
    writer.add_key_length(shape.head_dims[1])
    writer.add_value_length(shape.head_dims[1])
    writer.add_uint32("gemma4.attention.key_length_swa", shape.head_dims[0])
    writer.add_uint32("gemma4.attention.value_length_swa", shape.head_dims[0])
    writer.add_sliding_window(shape.window)
    writer.add_sliding_window_pattern([not shape.is_global(i) for i in range(shape.layers)])
    writer.add_uint32("gemma4.attention.shared_kv_layers", shape.shared)
    writer.add_uint32("gemma4.embedding_length_per_layer_input", shape.inputs)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_float32("gemma4.final_logit_softcapping", 9.0)
    writer.add_rope_freq_base(1e6)
    writer.add_float32("gemma4.rope.freq_base_swa", 1e4)
    writer.add_rope_dimension_count(shape.head_dims[1])
    writer.add_uint32("gemma4.rope.dimension_count_swa", shape.head_dims[0])
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(shape.ffn)
    add_tokenizer(writer, shape.vocab, shape.last_tokens)
    for name, values, kind in Tensors(shape).all():
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Tensors:
    """(name, bytes or values as the writer wants them, kind) of each tensor."""

    def __init__(self, shape: Gemma4Shape) -> None:
        self.shape = shape
        self.rng = np.random.default_rng(shape.seed)
        self.out: list[tuple[str, np.ndarray, str]] = []

    def matrix(self, name: str, rows: int, cols: int, gain: float = 1.0, experts: int = 0) -> None:
        values = random_matrix(self.rng, max(1, experts) * rows, cols, gain / cols**0.5, self.shape.kind)
        values = values.reshape(experts, rows, -1) if experts else values
        self.out.append((f"{name}.weight", values, self.shape.kind))

    def vector(self, name: str, size: int, mean: float = 1.0, deviation: float = 0.2) -> None:
        self.out.append((name, self.rng.normal(mean, deviation, size).astype(np.float32), "F32"))

    def all(self) -> list[tuple[str, np.ndarray, str]]:
        shape = self.shape
        self.matrix("token_embd", shape.vocab, shape.hidden, 2.0)
        if shape.inputs:
            inputs = shape.layers * shape.inputs
            self.matrix("per_layer_token_embd", shape.vocab, inputs, inputs**0.5 / 8)
            self.matrix("per_layer_model_proj", inputs, shape.hidden)
            self.vector("per_layer_proj_norm.weight", shape.inputs)
        turning = int(TURNING * shape.head_dims[1] / 2)
        factors = [1.0] * turning + [1e30] * (shape.head_dims[1] // 2 - turning)
        self.out.append(("rope_freqs.weight", np.array(factors, np.float32), "F32"))
        for i in range(shape.layers):
            self.layer(i, f"blk.{i}.")
        self.vector("output_norm.weight", shape.hidden)
        return self.out

    def layer(self, i: int, own: str) -> None:
        shape, hidden, ffn = self.shape, self.shape.hidden, self.shape.ffn_of(i)
        head_dim, kv_heads = shape.head_dims[shape.is_global(i)], shape.kv_heads[shape.is_global(i)]
        self.vector(f"{own}attn_norm.weight", hidden)
        self.matrix(f"{own}attn_q", shape.heads * head_dim, hidden)
        self.vector(f"{own}attn_q_norm.weight", head_dim, 0.4)
        if i < shape.layers - shape.shared:
            self.matrix(f"{own}attn_k", kv_heads * head_dim, hidden)
            self.vector(f"{own}attn_k_norm.weight", head_dim)
            if not (shape.keys_are_values and shape.is_global(i)):
                self.matrix(f"{own}attn_v", kv_heads * head_dim, hidden)
        self.matrix(f"{own}attn_output", hidden, shape.heads * head_dim)
        for part in ("post_attention_norm", "ffn_norm", "post_ffw_norm"):
            self.vector(f"{own}{part}.weight", hidden)
        self.matrix(f"{own}ffn_gate", ffn, hidden)
        self.matrix(f"{own}ffn_up", ffn, hidden)
        self.matrix(f"{own}ffn_down", hidden, ffn)
        self.vector(f"{own}layer_output_scale.weight", 1, 0.7, 0.1)
        if shape.inputs:
            self.matrix(f"{own}inp_gate", shape.inputs, hidden)
            self.matrix(f"{own}proj", hidden, shape.inputs)
            self.vector(f"{own}post_norm.weight", hidden)
        if shape.experts:
            self.experts(own)

    def experts(self, own: str) -> None:
        shape, hidden = self.shape, self.shape.hidden
        router = self.rng.normal(0, 2 / hidden**0.5, (shape.experts, hidden)).astype(np.float32)
        self.out.append((f"{own}ffn_gate_inp.weight", router, "F32"))
        self.vector(f"{own}ffn_gate_inp.scale", hidden, hidden**0.5, 1.0)
        self.vector(f"{own}ffn_down_exps.scale", shape.experts)
        for part in ("post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2"):
            self.vector(f"{own}{part}.weight", hidden)
        self.matrix(f"{own}ffn_gate_up_exps", 2 * shape.ffn, hidden, experts=shape.experts)
        self.matrix(f"{own}ffn_down_exps", hidden, shape.ffn, experts=shape.experts)


def write_gemma4_directory(directory: Path, path: Path, **config: Any) -> Path:
    """The model of such a GGUF file as a directory; keywords go into its config.json."""
    checkpoint = open_checkpoint(path)
    tensors = {
        _name(name): dequantize(tensor)
        for name, tensor in checkpoint.tensors.items()
        if name != "rope_freqs.weight"
    }
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", {**_config(checkpoint), **config})
    write_tokenizer(directory, checkpoint.tensor("token_embd.weight").shape[0])
    return directory


def _name(name: str) -> str:
    if not name.startswith("blk."):
        return f"{TOP[name.removesuffix('.weight')]}.weight"
    _, index, part = name.split(".", 2)
    return f"model.layers.{index}.{PARTS[part]}"


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    hyper = checkpoint.hyper
    is_local = hyper("attention.sliding_window_pattern")
    ffn, kv_heads = np.atleast_1d(hyper("feed_forward_length")), hyper("attention.head_count_kv")
    return {
        "model_type": "gemma4_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": hyper("embedding_length"),
        "intermediate_size": int(ffn[0]),
        "use_double_wide_mlp": len(set(ffn)) > 1,
        "num_hidden_layers": hyper("block_count"),
        "num_attention_heads": hyper("attention.head_count"),
        "num_key_value_heads": int(kv_heads[is_local][0]),
        "num_global_key_value_heads": int(kv_heads[~is_local][0]),
        "attention_k_eq_v": True,
        "head_dim": hyper("attention.key_length_swa"),
        "global_head_dim": hyper("attention.key_length"),
        "layer_types": [LOCAL if local else GLOBAL for local in is_local],
        "num_kv_shared_layers": hyper("attention.shared_kv_layers"),
        "hidden_size_per_layer_input": hyper("embedding_length_per_layer_input"),
        "sliding_window": hyper("attention.sliding_window"),
        "final_logit_softcapping": float(hyper("final_logit_softcapping")),
        "rms_norm_eps": float(hyper("attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": hyper("context_length"),
        "enable_moe_block": hyper("expert_count", 0) > 0,
        "num_experts": hyper("expert_count", 0),
        "top_k_experts": hyper("expert_used_count", 0),
        "moe_intermediate_size": hyper("expert_feed_forward_length", 0),
        "vocab_size": checkpoint.tensor("token_embd.weight").shape[0],
        "vocab_size_per_layer_input": checkpoint.tensor("token_embd.weight").shape[0],
    }
