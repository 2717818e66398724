"""A saved directory's model as the GGUF file that conversion makes of it: other names, keys and orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_models import add_tokenizer

from llm_serving.checkpoints import Checkpoint, dequantize

TOP = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
KEYS = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "sliding_window": "attention.sliding_window",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}


@dataclass(frozen=True)
class Twin:
    """How files of a family differ from the most common ones."""

    architecture: str
    parts: Mapping[str, str] = field(default_factory=dict)  # of layers, where they are called otherwise
    keys: Mapping[str, str] = field(default_factory=dict)  # of a config.json, the same
    more: Mapping[str, Any] = field(default_factory=dict)  # keys of the file, by value
    paired: bool = False  # rotary dimensions of queries and keys stand in pairs
    norm_offset: float = 0.0  # directories hold what norms differ from this by
    top: Mapping[str, str] = field(
        default_factory=dict
    )  # parts beside layers, where they are called otherwise
    split: Callable[[str, np.ndarray, Any], dict[str, np.ndarray]] | None = None  # of a tensor and the config


def write_twin(path: Path, directory: Checkpoint, twin: Twin) -> Path:
    """Returns `path`."""
    config = directory.metadata.get("text_config", directory.metadata)
    writer = gguf.GGUFWriter(path, twin.architecture)
    named = {own: config[key] for key, own in {**KEYS, **twin.keys}.items() if config.get(key) is not None}
    rope = config.get("rope_parameters") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    for key, value in {"rope.freq_base": float(theta), **named, **twin.more}.items():
        _add(writer, f"{twin.architecture}.{key}", value)
    for key in ("alpha_p", "alpha_n", "beta"):
        if f"model.layers.0.mlp.act_fn.{key}" in directory.tensors:
            names = (f"model.layers.{i}.mlp.act_fn.{key}" for i in range(config["num_hidden_layers"]))
            own = [float(dequantize(directory.tensors[name]).reshape(-1)[0]) for name in names]
            writer.add_array(f"xielu.{key}", own)
    add_tokenizer(writer, config["vocab_size"])
    tensors = _tensors(directory, twin)
    if twin.split is not None:
        changed = [twin.split(name, values, config) for name, values in tensors.items()]
        tensors = {name: values for each in changed for name, values in each.items()}
    for name, values in tensors.items():
        if twin.paired and name.endswith((".attn_q.weight", ".attn_k.weight")):
            heads = config["num_attention_heads" if ".attn_q." in name else "num_key_value_heads"]
            values = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        offset = twin.norm_offset if name.endswith("norm.weight") else 0.0
        writer.add_tensor(name, np.ascontiguousarray(values + np.float32(offset)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(directory: Checkpoint, twin: Twin) -> dict[str, np.ndarray]:
    """By their names in the file; experts of a layer are one tensor. What sees is left out."""
    named: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, np.ndarray]] = {}
    for name, tensor in directory.tensors.items():
        inner = name.replace("language_model.", "")
        for prefix in ("model.", "backbone.", "transformer.", "gpt_neox."):
            inner = inner.removeprefix(prefix)
        parts = inner.split(".")
        suffix = f".{parts.pop()}" if parts[-1] in ("weight", "bias") else ""
        top = {**TOP, **twin.top}
        if ".".join(parts) in top:
            named[top[".".join(parts)] + suffix] = dequantize(tensor)
        elif parts[0] in ("layers", "h", "blocks") and "act_fn" not in parts:
            number = next((part for part in parts[2:] if part.isdigit()), None)
            part = ".".join(each for each in parts[2:] if each != number)
            called = {**LAYER, **twin.parts}[part]
            own = f"blk.{parts[1]}.{called}" + ("" if "." in called else suffix or ".weight")
            if number is None:
                named[own] = dequantize(tensor)
            else:
                experts.setdefault(own, {})[int(number)] = dequantize(tensor)
    stacked = {own: np.stack([each for _, each in sorted(rows.items())]) for own, rows in experts.items()}
    return {**named, **stacked}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if key.endswith("sliding_window_pattern"):  # a list of kinds there, and of yes and no here
        value = [kind == "sliding_attention" for kind in value]
    if isinstance(value, (bool, list)):
        (writer.add_bool if isinstance(value, bool) else writer.add_array)(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
