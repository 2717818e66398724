"""Families of this table are compared as directories and, where there are such, as GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from family_models import SHAPE, save_model
from gguf_twin import Twin

TEMPERED = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
HALF_MSCALE = {**TEMPERED, "mscale_all_dim": 0.5}
SEES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN_SEES = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "ministral3": (
        transformers.Ministral3Config,
        transformers.Ministral3ForCausalLM,
        {"head_dim": 32, "rope_parameters": TEMPERED, "pad_token_id": 0},
    ),
    "mistral3": (
        transformers.Mistral3Config,
        transformers.Mistral3ForConditionalGeneration,
        {
            "text_config": {**SHAPE, "model_type": "mistral", "head_dim": 32, "sliding_window": None},
            "vision_config": {**SEES, "model_type": "pixtral", "head_dim": 16},
            "tie_word_embeddings": False,
        },
    ),
    "qwen3_vl": (
        transformers.Qwen3VLConfig,
        transformers.Qwen3VLForConditionalGeneration,
        {
            "text_config": {
                **SHAPE,
                "head_dim": 32,
                "rope_parameters": {"rope_type": "default", "mrope_section": [6, 5, 5], "rope_theta": 5e6},
            },
            "vision_config": {**QWEN_SEES, "out_hidden_size": 96, "deepstack_visual_indexes": [0]},
            "image_token_id": 3,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2_5_vl": (
        transformers.Qwen2_5_VLConfig,
        transformers.Qwen2_5_VLForConditionalGeneration,
        {
            "text_config": {
                **SHAPE,
                "rope_parameters": {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 1e6},
            },
            "vision_config": {**QWEN_SEES, "out_hidden_size": 96},
            "tie_word_embeddings": False,
        },
    ),
    "qwen2_vl": (
        transformers.Qwen2VLConfig,
        transformers.Qwen2VLForConditionalGeneration,
        {
            "text_config": {
                **SHAPE,
                "rope_parameters": {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 1e6},
            },
            "vision_config": {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 96},
            "tie_word_embeddings": False,
        },
    ),
    "qwen3_vl_moe": (
        transformers.Qwen3VLMoeConfig,
        transformers.Qwen3VLMoeForConditionalGeneration,
        {
            "text_config": {
                **SHAPE,
                "head_dim": 32,
                "moe_intermediate_size": 64,
                "num_experts": 12,
                "num_experts_per_tok": 3,
                "rope_parameters": {"rope_type": "default", "mrope_section": [6, 5, 5], "rope_theta": 5e6},
            },
            "vision_config": {**QWEN_SEES, "out_hidden_size": 96, "deepstack_visual_indexes": [0]},
            "tie_word_embeddings": False,
        },
    ),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ministral3", {}),
    ("ministral3", {"rope_parameters": HALF_MSCALE}),
    ("ministral3", {"sliding_window": 24}),
    ("mistral3", {}),
    ("qwen3_vl", {}),
    ("qwen2_5_vl", {}),
    ("qwen2_vl", {}),
    ("qwen3_vl_moe", {}),
]


NOT_IN_GGUF = {
    "rope_parameters",
    "sliding_window",
}  # of what cases set: files do not say it, or say it otherwise
TWINS = {
    "ministral3": Twin(
        "mistral3",
        paired=True,
        more={
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 16.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.yarn_log_multiplier": 1.0,
            "attention.temperature_scale": 0.1,
        },
    ),
    "mistral3": Twin("mistral3", paired=True),
    "qwen3_vl": Twin("qwen3vl", more={"rope.dimension_sections": [6, 5, 5, 0]}),
    "qwen2_5_vl": Twin("qwen2vl", more={"rope.dimension_sections": [4, 4, 4, 0]}),
}


def saved(directory: Path, name: str, **more: Any) -> Any:
    config_class, model_class, shape = MODELS[name]
    own = shape if "text_config" in shape else {**SHAPE, **shape}
    return save_model(directory, model_class, config_class(**{**own, **more}, attn_implementation="eager"))
