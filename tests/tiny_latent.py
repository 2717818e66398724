"""Tiny random models with latent attention, as GGUF files of `deepseek2`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_models import SMALLEST_VOCAB, add_tokenizer
from tiny_weights import random_matrix

from llm_serving.checkpoints import dequantize, open_checkpoint

HIDDEN, HEADS, FFN, EXPERT_FFN, EXPERTS = 64, 4, 96, 32, 8
PLAIN, ROTATED, VALUES, LATENT, QUERY_LATENT = 32, 32, 16, 64, 64
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 8.0,
    "rope.scaling.original_context_length": 64,
    "rope.scaling.yarn_log_multiplier": 0.0707,
}


@dataclass(frozen=True)
class LatentShape:
    """What to write; the first layer is dense. V3's routing, or V2's."""

    kind: str = "F32"  # of matrices
    layers: int = 3
    context: int = 512
    is_split: bool = True  # keys and values of heads are two tensors
    has_query_latent: bool = True
    scores: str = "sigmoid"
    groups: int = 4
    groups_used: int = 2
    rope: Mapping[str, Any] = field(default_factory=lambda: YARN)


def write_tiny_latent(path: Path, **shape: Any) -> Path:
    """Write a model; keywords are LatentShape's. Returns `path`."""
    tiny = LatentShape(**shape)
    writer = gguf.GGUFWriter(path, "deepseek2")
    for key, value in _keys(tiny).items():
        name = f"deepseek2.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(name, value)
    add_tokenizer(writer, SMALLEST_VOCAB)
    for name, values, kind in _tensors(tiny):
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _keys(shape: LatentShape) -> dict[str, Any]:
    own = "_mla" if shape.is_split else ""
    return {
        "context_length": shape.context,
        "embedding_length": HIDDEN,
        "block_count": shape.layers,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": 1 if shape.is_split else HEADS,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.kv_lora_rank": LATENT,
        **({"attention.q_lora_rank": QUERY_LATENT} if shape.has_query_latent else {}),
        "attention.key_length": LATENT + ROTATED,
        "attention.value_length": LATENT,
        f"attention.key_length{own}": PLAIN + ROTATED,
        f"attention.value_length{own}": VALUES,
        "rope.dimension_count": ROTATED,
        "rope.freq_base": 10000.0,
        **shape.rope,
        "leading_dense_block_count": 1,
        "expert_count": EXPERTS,
        "expert_used_count": 2,
        "expert_shared_count": 2,
        "expert_feed_forward_length": EXPERT_FFN,
        "expert_weights_scale": 1.5,
        "expert_group_count": shape.groups,
        "expert_group_used_count": shape.groups_used,
        **({"expert_gating_func": 2, "expert_weights_norm": True} if shape.scores == "sigmoid" else {}),
    }


def _tensors(shape: LatentShape) -> Iterator[tuple[str, np.ndarray, str]]:
    rng = np.random.default_rng(5)

    def matrix(name: str, rows: int, cols: int, *parts: int) -> tuple[str, np.ndarray, str]:
        """Rows of `parts` matrices one after the other, as the file has them in three dimensions."""
        flat = random_matrix(rng, rows * int(np.prod(parts)), cols, cols**-0.5, shape.kind)
        return f"{name}.weight", flat.reshape(*parts, rows, -1), shape.kind

    def vector(name: str, size: int, mean: float = 1.0) -> tuple[str, np.ndarray, str]:
        return name, rng.normal(mean, 0.2, size).astype(np.float32), "F32"

    yield matrix("token_embd", SMALLEST_VOCAB, HIDDEN)
    for i in range(shape.layers):
        blk = f"blk.{i}"
        yield vector(f"{blk}.attn_norm.weight", HIDDEN)
        if shape.has_query_latent:
            yield matrix(f"{blk}.attn_q_a", QUERY_LATENT, HIDDEN)
            yield vector(f"{blk}.attn_q_a_norm.weight", QUERY_LATENT)
        up = "attn_q_b" if shape.has_query_latent else "attn_q"
        yield matrix(f"{blk}.{up}", HEADS * (PLAIN + ROTATED), QUERY_LATENT)
        yield matrix(f"{blk}.attn_kv_a_mqa", LATENT + ROTATED, HIDDEN)
        yield vector(f"{blk}.attn_kv_a_norm.weight", LATENT)
        yield from _expansion(shape, rng, blk)
        yield matrix(f"{blk}.attn_output", HIDDEN, HEADS * VALUES)
        yield vector(f"{blk}.ffn_norm.weight", HIDDEN)
        if i:
            yield matrix(f"{blk}.ffn_gate_inp", EXPERTS, HIDDEN)
            if shape.scores == "sigmoid":
                yield vector(f"{blk}.exp_probs_b.bias", EXPERTS, mean=0.0)
        for name, width, parts in (
            (("_exps", EXPERT_FFN, (EXPERTS,)), ("_shexp", 2 * EXPERT_FFN, ())) if i else (("", FFN, ()),)
        ):
            yield matrix(f"{blk}.ffn_gate{name}", width, HIDDEN, *parts)
            yield matrix(f"{blk}.ffn_up{name}", width, HIDDEN, *parts)
            yield matrix(f"{blk}.ffn_down{name}", HIDDEN, width, *parts)
    yield vector("output_norm.weight", HIDDEN)
    yield matrix("output", SMALLEST_VOCAB, HIDDEN)


def _expansion(
    shape: LatentShape, rng: np.random.Generator, blk: str
) -> Iterator[tuple[str, np.ndarray, str]]:
    """The same numbers whichever way they lie, where they are floats."""
    heads = rng.normal(0.0, LATENT**-0.5, (HEADS, PLAIN + VALUES, LATENT)).astype(np.float32)
    named = {"attn_kv_b": heads.reshape(-1, LATENT)}
    if shape.is_split:
        named = {"attn_k_b": heads[:, :PLAIN].swapaxes(1, 2), "attn_v_b": heads[:, PLAIN:]}
    for name, values in named.items():
        packed = gguf.quants.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType[shape.kind])
        yield f"{blk}.{name}.weight", packed, shape.kind


_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
    "exp_probs_b": "mlp.gate.e_score_correction_bias",
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
    **{f"ffn_{part}_shexp": f"mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")},
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def write_latent_directory(directory: Path, file: Path, **config: Any) -> Path:
    """A file of floats with `is_split=False` as a directory of V3; keywords go into its config.json."""
    tensors = {}
    for name, tensor in open_checkpoint(file).tensors.items():
        values, parts = dequantize(tensor), name.split(".")
        if parts[0] != "blk":
            tensors[f"{_TOP[parts[0]]}.weight"] = values
        elif parts[2].endswith("_exps"):
            part = parts[2].removeprefix("ffn_").removesuffix("_exps")
            for e, matrix in enumerate(values):
                tensors[f"model.layers.{parts[1]}.mlp.experts.{e}.{part}_proj.weight"] = matrix
        else:
            suffix = "" if parts[2] == "exp_probs_b" else ".weight"
            tensors[f"model.layers.{parts[1]}.{_PARTS[parts[2]]}{suffix}"] = values
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", {**_CONFIG, **config})
    write_tokenizer(directory, SMALLEST_VOCAB)
    return directory


_CONFIG = {
    "model_type": "deepseek_v3",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "moe_intermediate_size": EXPERT_FFN,
    "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "kv_lora_rank": LATENT,
    "q_lora_rank": QUERY_LATENT,
    "qk_nope_head_dim": PLAIN,
    "qk_rope_head_dim": ROTATED,
    "v_head_dim": VALUES,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
    },
}
