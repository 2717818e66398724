"""Tiny random models of Nemotron-H: a GGUF file, and a directory with the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_granite_hybrid import (
    GROUPS,
    HEAD_DIM,
    HEADS,
    STATE,
    add_mamba,
    add_mamba_sizes,
    mamba_as_directories_have,
)
from tiny_models import TinyShape, add_hyperparameters, add_tokenizer
from tiny_weights import random_matrix

from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint

DENSE, MIXTURE = "M-M*-", "MEM*E"
_LAYERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_TOP = {"token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f", "output": "lm_head"}
_PARTS = {
    "attn_norm.weight": "norm.weight",
    "attn_q.weight": "mixer.q_proj.weight",
    "attn_k.weight": "mixer.k_proj.weight",
    "attn_v.weight": "mixer.v_proj.weight",
    "attn_output.weight": "mixer.o_proj.weight",
    "ssm_in.weight": "mixer.in_proj.weight",
    "ssm_conv1d.weight": "mixer.conv1d.weight",
    "ssm_conv1d.bias": "mixer.conv1d.bias",
    "ssm_dt.bias": "mixer.dt_bias",
    "ssm_a": "mixer.A_log",
    "ssm_d": "mixer.D",
    "ssm_norm.weight": "mixer.norm.weight",
    "ssm_out.weight": "mixer.out_proj.weight",
    "ffn_up.weight": "mixer.up_proj.weight",
    "ffn_down.weight": "mixer.down_proj.weight",
    "ffn_gate_inp.weight": "mixer.gate.weight",
    "exp_probs_b.bias": "mixer.gate.e_score_correction_bias",
    "ffn_up_shexp.weight": "mixer.shared_experts.up_proj.weight",
    "ffn_down_shexp.weight": "mixer.shared_experts.down_proj.weight",
}


def write_tiny_nemotron_h(path: Path, *, is_mixture: bool = False, **shape: Any) -> Path:
    """Write a GGUF file of `DENSE` or `MIXTURE` layers; keywords are TinyShape's. Returns `path`."""
    pattern = MIXTURE if is_mixture else DENSE
    experts = {"experts": 6} if is_mixture else {}
    tiny = TinyShape(**{"layers": len(pattern), "head_dim": 32, **experts, **shape})
    writer = gguf.GGUFWriter(path, family := "nemotron_h_moe" if is_mixture else "nemotron_h")
    add_hyperparameters(writer, tiny)
    for key in ("attention.head_count_kv", "feed_forward_length", "attention.layer_norm_rms_epsilon"):
        writer.kv_data[0].pop(f"{family}.{key}")
    writer.add_head_count_kv([tiny.kv_heads if kind == "*" else 0 for kind in pattern])
    writer.add_feed_forward_length([tiny.ffn if kind in "-E" else 0 for kind in pattern])
    writer.add_layer_norm_eps(1e-4)
    add_mamba_sizes(writer)
    if is_mixture:
        writer.add_expert_shared_feed_forward_length(2 * tiny.ffn)
        writer.add_expert_weights_norm(True)
        writer.add_expert_weights_scale(1.5)
        writer.add_expert_group_count(1)
    add_tokenizer(writer, tiny.vocab, tiny.last_tokens)
    for name, values, kind in _tensors(tiny, pattern):
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(shape: TinyShape, pattern: str) -> list[tuple[str, np.ndarray, str]]:
    rng = np.random.default_rng(shape.seed)
    out: list[tuple[str, np.ndarray, str]] = []

    def vector(name: str, *size: int, mean: float = 1.0, deviation: float = 0.2) -> None:
        out.append((name, rng.normal(mean, deviation, size).astype(np.float32), "F32"))

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0, experts: int = 0) -> None:
        values = random_matrix(rng, max(1, experts) * rows, cols, gain / cols**0.5, shape.kind)
        out.append((f"{name}.weight", values.reshape(experts, rows, -1) if experts else values, shape.kind))

    hidden = shape.hidden
    matrix("token_embd", shape.vocab, hidden, 2.0)
    for i, kind in enumerate(pattern):
        layer = f"blk.{i}"
        vector(f"{layer}.attn_norm.weight", hidden)
        if kind == "M":
            add_mamba(layer, hidden, matrix, vector)
        elif kind == "*":
            queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
            matrix(f"{layer}.attn_q", queries, hidden, 1.5)
            matrix(f"{layer}.attn_k", keys, hidden, 1.5)
            matrix(f"{layer}.attn_v", keys, hidden)
            matrix(f"{layer}.attn_output", hidden, queries, 2.0)
        elif kind == "-":
            matrix(f"{layer}.ffn_up", shape.ffn, hidden)
            matrix(f"{layer}.ffn_down", hidden, shape.ffn)
        else:
            vector(f"{layer}.ffn_gate_inp.weight", shape.experts, hidden, mean=0.0)
            vector(f"{layer}.exp_probs_b.bias", shape.experts, mean=0.0)
            matrix(f"{layer}.ffn_up_exps", shape.ffn, hidden, experts=shape.experts)
            matrix(f"{layer}.ffn_down_exps", hidden, shape.ffn, experts=shape.experts)
            matrix(f"{layer}.ffn_up_shexp", 2 * shape.ffn, hidden)
            matrix(f"{layer}.ffn_down_shexp", hidden, 2 * shape.ffn)
    vector("output_norm.weight", hidden)
    matrix("output", shape.vocab, hidden, 2.0)
    return out


def write_nemotron_h_directory(directory: Path, path: Path, **config: Any) -> Path:
    """The model of such a GGUF file as a directory; keywords go into its config.json."""
    checkpoint = open_checkpoint(path)
    tensors = {"mtp.layers.0.norm.weight": np.zeros(8, np.float32)}
    for name in checkpoint.tensors:
        values, stem = dequantize(checkpoint.tensor(name)), name.removesuffix(".weight")
        if stem in _TOP:
            tensors[f"{_TOP[stem]}.weight"] = values
            continue
        _, index, part = name.split(".", 2)
        layer = f"backbone.layers.{index}."
        if part.endswith("_exps.weight"):
            which = part.removeprefix("ffn_").removesuffix("_exps.weight")
            for e, own in enumerate(values):
                tensors[f"{layer}mixer.experts.{e}.{which}_proj.weight"] = own
        else:
            tensors[layer + _PARTS[part]] = mamba_as_directories_have(part, values)
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", {**_config(checkpoint), **config})
    write_tokenizer(directory, checkpoint.hyper("vocab_size"))
    return directory


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    is_mixture = checkpoint.architecture.endswith("moe")
    ffn = int(checkpoint.hyper("feed_forward_length").max())
    return {
        "model_type": "nemotron_h",
        "hidden_size": checkpoint.hyper("embedding_length"),
        "intermediate_size": ffn,
        "layers_block_type": [_LAYERS[kind] for kind in (MIXTURE if is_mixture else DENSE)],
        "num_attention_heads": checkpoint.hyper("attention.head_count"),
        "num_key_value_heads": int(checkpoint.hyper("attention.head_count_kv").max()),
        "head_dim": checkpoint.hyper("attention.key_length"),
        "max_position_embeddings": checkpoint.hyper("context_length"),
        "layer_norm_epsilon": float(checkpoint.hyper("attention.layer_norm_epsilon")),
        "mlp_hidden_act": "relu2",
        "mamba_num_heads": HEADS,
        "mamba_head_dim": HEAD_DIM,
        "n_groups": GROUPS,
        "ssm_state_size": STATE,
        "conv_kernel": 4,
        "use_conv_bias": True,
        "moe_intermediate_size": ffn,
        "moe_shared_expert_intermediate_size": 2 * ffn,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "routed_scaling_factor": 1.5,
        "norm_topk_prob": True,
        "n_group": 1,
        "vocab_size": checkpoint.hyper("vocab_size"),
    }
