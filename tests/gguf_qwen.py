"""Directories of Qwen-VL as the two GGUF files that llama.cpp's converter makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
from gguf_pairs import add_key, add_tensor, add_tokenizer, written

from llm_serving.checkpoints import dequantize, open_checkpoint

_FAMILIES = {
    "qwen2_vl": (gguf.MODEL_ARCH.QWEN2VL, "qwen2vl_merger"),
    "qwen2_5_vl": (gguf.MODEL_ARCH.QWEN2VL, "qwen2.5vl_merger"),
    "qwen3_vl": (gguf.MODEL_ARCH.QWEN3VL, "qwen3vl_merger"),
    "qwen3_vl_moe": (gguf.MODEL_ARCH.QWEN3VLMOE, "qwen3vl_merger"),
    "qwen3_5": (gguf.MODEL_ARCH.QWEN35, "qwen3vl_merger"),
    "qwen3_5_moe": (gguf.MODEL_ARCH.QWEN35MOE, "qwen3vl_merger"),
}
_MERGER = {"linear_fc1": "mm.0", "linear_fc2": "mm.2", "norm": "v.post_ln"}


def write_qwen_text(path: Path, directory: Path) -> Path:
    """The text model, in F32."""
    checkpoint = open_checkpoint(directory)
    config = checkpoint.metadata.get("text_config", checkpoint.metadata)
    architecture = _FAMILIES[checkpoint.architecture][0]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(config["rope_theta"])
    rope = config["rope_scaling"] or config["rope_parameters"]
    writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
    if checkpoint.architecture.startswith("qwen3_vl"):
        writer.add_num_deepstack_layers(len(checkpoint.metadata["vision_config"]["deepstack_visual_indexes"]))
    if "num_experts" in config:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if "layer_types" in config:
        _add_hybrid_keys(writer, config)
    add_tokenizer(writer, directory, lambda token: token)
    for name, tensor in checkpoint.tensors.items():
        if "visual." not in name:
            plain = name.replace("language_model.", "")
            for own, values in _text_parts(plain, dequantize(tensor), checkpoint.architecture):
                writer.add_tensor(_named(names, own), np.ascontiguousarray(values))
    return written(writer, path)


def _add_hybrid_keys(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    share = config["rope_parameters"]["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(share * config["head_dim"]))
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
    writer.add_ssm_inner_size(config["linear_num_value_heads"] * config["linear_value_head_dim"])
    writer.add_full_attention_interval(1 + config["layer_types"].index("full_attention"))


def _text_parts(name: str, values: np.ndarray, family: str) -> list[tuple[str, np.ndarray]]:
    """As the converter splits, turns and moves them; there is a value head for each key head."""
    layer, _, part = name.rpartition(".")
    if part in ("gate_up_proj", "down_proj") and family == "qwen3_vl_moe":
        values = values.swapaxes(1, 2)
    if part == "gate_up_proj":
        gate, up = np.split(values, 2, axis=1)
        return [(f"{layer}.gate_proj.weight", gate), (f"{layer}.up_proj.weight", up)]
    if part == "down_proj":
        return [(f"{name}.weight", values)]
    if part == "dt_bias":
        return [(f"{layer}.dt_proj.bias", values)]
    if part == "A_log":
        return [(name, -np.exp(values))]
    if "conv1d" in name:
        return [(name, values[:, 0])]
    if family.startswith("qwen3_5") and "norm" in name and "linear_attn" not in name:
        values = values + np.float32(1)
    return [(name, values)]


def write_qwen_projector(
    path: Path, directory: Path, kind: str = "F32", keys: Mapping[str, Any] = MappingProxyType({})
) -> Path:
    """What the model sees with, matrices in this kind; `keys` replace the converter's or leave them out."""
    checkpoint = open_checkpoint(directory)
    vision = checkpoint.metadata["vision_config"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, vision["depth"])
    found: dict[str, np.ndarray] = {}
    for name, tensor in checkpoint.tensors.items():
        if "visual." in name:
            own = name[name.index("visual.") :]
            for called, values in _parts(own, dequantize(tensor), vision):
                found[called if called.startswith(("v.", "mm.")) else _named(names, called)] = values
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MMPROJ])
    writer.add_type(gguf.GGUFType.MMPROJ)
    for key, value in {**_keys(checkpoint.architecture, vision, directory), **keys}.items():
        if value is not None:
            add_key(writer, f"clip.{key}", value)
    for name, values in found.items():
        is_matrix = values.ndim == 2 and "position" not in name
        add_tensor(writer, name, np.ascontiguousarray(values), kind if is_matrix else "F32")
    return written(writer, path)


def _named(names: gguf.TensorNameMap, name: str) -> str:
    own = names.get_name(name, (".weight", ".bias"))
    assert own is not None, name
    return str(own)


def _parts(name: str, values: np.ndarray, vision: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
    """As the converter splits and names them."""
    if name == "visual.patch_embed.proj.weight":
        return [("v.patch_embd.weight", values[:, :, 0]), ("v.patch_embd.weight.1", values[:, :, 1])]
    if name == "visual.patch_embed.proj.bias":
        return [("v.patch_embd.bias", values)]
    if "num_position_embeddings" in vision:
        part, _, end = name.removeprefix("visual.").rpartition(".")
        if part.startswith("merger."):
            return [(f"{_MERGER[part.removeprefix('merger.')]}.{end}", values)]
        if part.startswith("deepstack_merger_list."):
            _, number, called = part.split(".")
            block = vision["deepstack_visual_indexes"][int(number)]
            return [(f"v.deepstack.{block}.{called.removeprefix('linear_')}.{end}", values)]
        return [(name, values)]
    if ".qkv." in name:
        return [
            (name.replace("qkv", part), rows) for part, rows in zip("qkv", np.split(values, 3), strict=True)
        ]
    return [(name, values)]


def _keys(family: str, vision: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    pictures = json.loads((directory / "preprocessor_config.json").read_text("utf-8"))
    own: dict[str, Any] = {
        "has_vision_encoder": True,
        "projector_type": _FAMILIES[family][1],
        "vision.projection_dim": 64,
        "vision.image_size": 560,
        "vision.patch_size": vision["patch_size"],
        "vision.embedding_length": vision["embed_dim"] if family == "qwen2_vl" else vision["hidden_size"],
        "vision.feed_forward_length": vision.get("intermediate_size", vision["hidden_size"]),
        "vision.block_count": vision["depth"],
        "vision.attention.head_count": vision["num_heads"],
        "vision.attention.layer_norm_epsilon": 1e-6,
        "vision.image_mean": pictures["image_mean"],
        "vision.image_std": pictures["image_std"],
    }
    if family == "qwen2_5_vl":
        blocks = {"vision.n_wa_pattern": vision["fullatt_block_indexes"][0] + 1}
        return own | {"use_silu": True, "vision.window_size": vision["window_size"], **blocks}
    if family.startswith("qwen3"):
        deep = [i in vision.get("deepstack_visual_indexes", []) for i in range(vision["depth"])]
        return own | {"use_gelu": True, "vision.spatial_merge_size": 2, "vision.is_deepstack_layers": deep}
    return own
