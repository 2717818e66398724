"""Random vision models as `save_pretrained` writes them, and what `transformers` computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from llm_serving.checkpoints import Checkpoint, open_checkpoint

IMAGE_ID = 300
TEXT = {
    "model_type": "llama",
    "vocab_size": 384,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
# name → (class of the model, vision_config, scale_factor, pixels of a tile)
MODELS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "smolvlm": (
        "SmolVLM",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
        },
        4,
        64,
    ),
    # As SigLIP So400m: sizes that are no multiples of 32, and positions that float32 rounds off.
    "idefics3": (
        "Idefics3",
        {
            "hidden_size": 96,
            "intermediate_size": 144,
            "num_attention_heads": 4,
            "image_size": 182,
            "patch_size": 14,
        },
        1,
        182,
    ),
    # As SmolVLM 2.2B, whose tiles of 384 pixels are 27 patches of 14 and a rest.
    "tiles with a rest": (
        "SmolVLM",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 2,
            "image_size": 76,
            "patch_size": 8,
        },
        3,
        76,
    ),
    "larger tiles": (
        "Idefics3",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        2,
        96,
    ),
}


# Sizes as SmolVLM 256M has them, but for layers of its text model, and as SigLIP So400m's.
REAL_TEXT = {
    **TEXT,
    "vocab_size": 49280,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "initializer_range": 0.04,
}
REAL = {
    "smolvlm": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "image_size": 512,
        "patch_size": 16,
        "initializer_range": 0.03,
    },
    "idefics3": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 3,
        "image_size": 378,
        "patch_size": 14,
        "initializer_range": 0.03,
    },
}


def saved(directory: Path, name: str, text: dict[str, Any] = TEXT, **vision: Any) -> tuple[Any, Checkpoint]:
    """A model of `MODELS`, with norms and biases that matter, and its directory opened."""
    family, shape, scale_factor, _ = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        text_config=dict(text),
        vision_config={"num_hidden_layers": 3, "initializer_range": 0.15, **shape, **vision},
        scale_factor=scale_factor,
        image_token_id=IMAGE_ID,
        attn_implementation="eager",
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval().float()
    for part, values in model.named_parameters():
        if "norm" in part or part.endswith("bias"):
            values.data += 0.2 * torch.randn_like(values)
    model.save_pretrained(directory)
    return model, open_checkpoint(directory)


def tiles_of(count: int, side: int, seed: int = 0) -> np.ndarray:
    """float32 [count, side, side, 3] in -1 … 1, a different one each."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def pixel_values(tiles: np.ndarray) -> torch.Tensor:
    """float32 [1, count, 3, side, side], as processors of `transformers` give them."""
    return torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))[None]
