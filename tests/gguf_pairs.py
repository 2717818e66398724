"""Directories that see as the two GGUF files that llama.cpp's converter makes of them: text model, projector.

Names of tensors and keys come from the tables of the package `gguf`, which the converter uses too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np

from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint

_FAMILIES = {
    "smolvlm": (gguf.MODEL_ARCH.LLAMA, gguf.VisionProjectorType.IDEFICS3),
    "gemma3": (gguf.MODEL_ARCH.GEMMA3, gguf.VisionProjectorType.GEMMA3),
}
_IS_VISION = ("vision_tower", "vision_model", "connector", "multi_modal_projector")
Rename = Callable[[str], str]


def write_pair(
    folder: Path, directory: Path, kind: str = "F32", projector: str = "mmproj-model.gguf", **changes: Any
) -> tuple[Path, Path]:
    """(text model in F32, projector with matrices of this kind); `changes` are those of `write_projector`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = write_text(folder / f"{directory.name}.gguf", directory)
    return text, write_projector(folder / projector, directory, kind, **changes)


def write_projector(
    path: Path,
    directory: Path,
    kind: str = "F32",
    *,
    keys: Mapping[str, Any] = MappingProxyType({}),
    tensors: Mapping[str, np.ndarray | None] = MappingProxyType({}),
    rename: Rename = lambda name: name,
) -> Path:
    """`keys` and `tensors` replace what the converter would write, or leave it out where they are None."""
    checkpoint = open_checkpoint(directory)
    config = checkpoint.metadata["vision_config"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, config["num_hidden_layers"])
    found = {}
    for name, tensor in checkpoint.tensors.items():
        if any(part in name for part in _IS_VISION):
            own = names.get_name(name.replace("_weight", ".weight"), (".weight", ".bias"))
            assert own is not None, name
            found[own] = dequantize(tensor) + np.float32("soft_emb_norm" in name)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MMPROJ])
    writer.add_type(gguf.GGUFType.MMPROJ)
    for key, value in {**_projector_keys(checkpoint, directory), **keys}.items():
        if value is not None:
            add_key(writer, f"clip.{key}", value)
    for name, values in {**found, **tensors}.items():
        if values is not None:
            add_tensor(writer, rename(name), np.ascontiguousarray(values), _kind(name, values, kind))
    return written(writer, path)


def _kind(name: str, values: np.ndarray, kind: str) -> str:
    """As the converter: what is no matrix of a whole number of blocks stays, and so do some others."""
    if values.ndim != 2 or "position" in name:
        return "F32"
    if name == "mm.input_projection.weight" or (kind == "Q8_0" and values.shape[1] % 32):
        return "F16"
    return kind


def _projector_keys(checkpoint: Checkpoint, directory: Path) -> dict[str, Any]:
    vision, processor = checkpoint.metadata["vision_config"], directory / "preprocessor_config.json"
    pictures = json.loads(processor.read_text("utf-8"))
    own: dict[str, Any] = {
        "has_vision_encoder": True,
        "projector_type": str(_FAMILIES[checkpoint.architecture][1]),
        "use_gelu": True,
        "vision.projection_dim": checkpoint.metadata["text_config"]["hidden_size"],
        "vision.image_size": vision["image_size"],
        "vision.patch_size": vision["patch_size"],
        "vision.embedding_length": vision["hidden_size"],
        "vision.feed_forward_length": vision["intermediate_size"],
        "vision.block_count": vision["num_hidden_layers"],
        "vision.attention.head_count": vision["num_attention_heads"],
        "vision.attention.layer_norm_epsilon": 1e-6,
        "vision.image_mean": pictures["image_mean"],
        "vision.image_std": pictures["image_std"],
    }
    if checkpoint.architecture == "gemma3":
        rows = round(checkpoint.metadata["mm_tokens_per_image"] ** 0.5)
        return own | {"vision.projector.scale_factor": vision["image_size"] // vision["patch_size"] // rows}
    return own | {
        "vision.projector.scale_factor": checkpoint.metadata["scale_factor"],
        "vision.preproc_image_size": pictures["size"]["longest_edge"],
    }


def write_text(path: Path, directory: Path, rename: Rename = lambda token: token) -> Path:
    """The text model, in F32; `rename` is of tokens."""
    checkpoint = open_checkpoint(directory)
    config = checkpoint.metadata["text_config"]
    architecture = _FAMILIES[checkpoint.architecture][0]
    is_gemma = architecture is gguf.MODEL_ARCH.GEMMA3
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6 if is_gemma else 1e4)
    if is_gemma:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
    add_tokenizer(writer, directory, rename)
    for name, tensor in checkpoint.tensors.items():
        if not any(part in name for part in _IS_VISION):
            values = dequantize(tensor)
            plain = name.replace("text_model.", "").replace("language_model.", "")
            own = names.get_name(plain, (".weight", ".bias"))
            assert own is not None, name
            if not is_gemma and own.endswith(("attn_q.weight", "attn_k.weight")):  # rotary pairs
                heads = config["num_attention_heads" if "attn_q" in own else "num_key_value_heads"]
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
            writer.add_tensor(own, values + np.float32(is_gemma and "norm" in own))
    return written(writer, path)


def add_tokenizer(writer: gguf.GGUFWriter, directory: Path, rename: Rename) -> None:
    saved = json.loads((directory / "tokenizer.json").read_text("utf-8"))
    special = {token["content"]: token["id"] for token in saved["added_tokens"]}
    ids = {**saved["model"]["vocab"], **special}
    tokens = sorted(ids, key=lambda token: ids[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([rename(token) for token in tokens])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in saved["model"]["merges"]])
    settings = json.loads((directory / "tokenizer_config.json").read_text("utf-8"))
    if settings.get("bos_token") is not None:
        writer.add_bos_token_id(ids[settings["bos_token"]])
    writer.add_eos_token_id(ids[settings["eos_token"]])
    template = json.loads((directory / "chat_template.json").read_text("utf-8"))
    writer.add_chat_template(template["chat_template"])


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, (str, list)):
        (writer.add_string if isinstance(value, str) else writer.add_array)(key, value)
    else:
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)


def add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if kind == "F32":
        writer.add_tensor(name, values)
    else:
        to = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(values, to), raw_dtype=to)


def written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
