"""Random low-rank adapters for tests, as PEFT writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tiny_decoder_directories import LAYER_PARTS
from tiny_encoders import write_json, write_safetensors

from llm_serving.checkpoints import Checkpoint

CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "lora_dropout": 0.05,
    "target_modules": ["q_proj"],  # only what is in the file counts
    "base_model_name_or_path": "somebody/model",
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PARTS = {**LAYER_PARTS, "attn_qkv": "self_attn.qkv_proj"}


def module_shapes(checkpoint: Checkpoint, parts: Mapping[str, str] = _PARTS) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each module of a GGUF file that may be adapted, experts excepted."""
    shapes = {}
    for name, tensor in checkpoint.tensors.items():
        _, _, rest = name.partition("blk.")
        index, _, part = rest.removesuffix(".weight").partition(".")
        if part in parts and len(tensor.shape) == 2:
            shapes[f"model.layers.{index}.{parts[part]}"] = tensor.shape
    return {**shapes, "lm_head": checkpoint.tensor("token_embd.weight").shape}


def chosen(shapes: Mapping[str, tuple[int, int]], names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Those whose names end so."""
    return {module: shape for module, shape in shapes.items() if module.split(".")[-1] in set(names)}


def random_matrices(
    shapes: Mapping[str, tuple[int, int]], rank: int, seed: int, gain: float = 1.0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By module, float32 [rank, inputs] and [outputs, rank], which change what comes out by about `gain`."""
    rng = np.random.default_rng(seed)
    return {
        module: (
            rng.normal(0, 1 / inputs**0.5, (rank, inputs)).astype(np.float32),
            rng.normal(0, gain / rank**0.5, (outputs, rank)).astype(np.float32),
        )
        for module, (outputs, inputs) in shapes.items()
    }


def write_matrices(
    directory: Path,
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    infix: str = "",
    bfloat16: bool = False,
    **config: Any,
) -> Path:
    """An adapter of these; keywords go into its configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{module}.lora_{which}{infix}.weight": values
        for module, pair in matrices.items()
        for which, values in zip("AB", pair, strict=True)
    }
    write_safetensors(directory / "adapter_model.safetensors", tensors, bfloat16=bfloat16)
    rank = max(len(down) for down, _ in matrices.values())
    write_json(directory / "adapter_config.json", {**CONFIG, "r": rank, "lora_alpha": rank, **config})
    return directory


def write_adapter(
    directory: Path,
    checkpoint: Checkpoint,
    *,
    names: Iterable[str] = ALL,
    rank: int = 4,
    seed: int = 0,
    gain: float = 1.0,
    **config: Any,
) -> Path:
    """A random adapter of the modules of a GGUF file whose names end so. Returns `directory`."""
    shapes = chosen(module_shapes(checkpoint), names)
    return write_matrices(directory, random_matrices(shapes, rank, seed, gain), **config)
