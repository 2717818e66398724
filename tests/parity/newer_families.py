"""Families of this table are compared as directories and, where there are such, as GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mixture_families
import transformers
from family_models import SHAPE, save_model

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
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
HALF_MSCALE = {**TEMPERED, "mscale_all_dim": 0.5}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
EXPERTS = {"head_dim": 32, "moe_intermediate_size": 64, "num_experts": 12, "num_experts_per_tok": 3}
SEES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN_SEES = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    **mixture_families.MODELS,
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
    "exaone4": (
        transformers.Exaone4Config,
        transformers.Exaone4ForCausalLM,
        {"num_hidden_layers": 5, "sliding_window": 24},
    ),
    "exaone": (transformers.ExaoneConfig, transformers.LlamaForCausalLM, {}),
    "cohere": (transformers.CohereConfig, transformers.CohereForCausalLM, {"logit_scale": 0.5}),
    "cohere2": (
        transformers.Cohere2Config,
        transformers.Cohere2ForCausalLM,
        {"num_hidden_layers": 5, "logit_scale": 0.25, "sliding_window": 24},
    ),
    "seed_oss": (transformers.SeedOssConfig, transformers.SeedOssForCausalLM, {"head_dim": 32}),
    "helium": (transformers.HeliumConfig, transformers.HeliumForCausalLM, {"head_dim": 24}),
    "arcee": (
        transformers.ArceeConfig,
        transformers.ArceeForCausalLM,
        {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "bitnet": (transformers.BitNetConfig, transformers.BitNetForCausalLM, {"hidden_act": "silu"}),
    "apertus": (
        transformers.ApertusConfig,
        transformers.ApertusForCausalLM,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
    "gemma": (transformers.GemmaConfig, transformers.GemmaForCausalLM, {"head_dim": 32}),
    "vaultgemma": (
        transformers.VaultGemmaConfig,
        transformers.VaultGemmaForCausalLM,
        {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 24},
    ),
    "starcoder2": (
        transformers.Starcoder2Config,
        transformers.Starcoder2ForCausalLM,
        {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "stablelm": (
        transformers.StableLmConfig,
        transformers.StableLmForCausalLM,
        {"num_attention_heads": 3, "num_key_value_heads": 3, "use_qkv_bias": True},
    ),
    "phi": (transformers.PhiConfig, transformers.PhiForCausalLM, {"num_key_value_heads": None}),
    "gpt_neox": (
        transformers.GPTNeoXConfig,
        transformers.GPTNeoXForCausalLM,
        {
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
        },
    ),
    "nemotron": (transformers.NemotronConfig, transformers.NemotronForCausalLM, {}),
    "olmo": (transformers.OlmoConfig, transformers.OlmoForCausalLM, {"eos_token_id": 2}),
    "mellum": (
        transformers.MellumConfig,
        transformers.MellumForCausalLM,
        {
            **EXPERTS,
            "num_hidden_layers": 5,
            "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention"],
            "sliding_window": 24,
            "rope_parameters": {
                "full_attention": {**YARN, "rope_theta": 500000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
            },
        },
    ),
    "sarvam_moe": (
        transformers.SarvamMoEConfig,
        transformers.Glm4MoeForCausalLM,
        {**EXPERTS, "n_shared_experts": 2, "n_group": 4, "topk_group": 2, "num_mtp_layers": 0},
    ),
    "afmoe": (
        transformers.AfmoeConfig,
        transformers.AfmoeForCausalLM,
        {
            **EXPERTS,
            "num_hidden_layers": 5,
            "sliding_window": 24,
            "route_scale": 1.5,
            "mup_enabled": True,
            "initializer_range": 0.12,
        },
    ),
    "qwen2_moe": (
        transformers.Qwen2MoeConfig,
        transformers.Qwen2MoeForCausalLM,
        {
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 128,
            "num_experts": 12,
            "num_experts_per_tok": 3,
        },
    ),
    "glm4_moe": (
        transformers.Glm4MoeConfig,
        transformers.Glm4MoeForCausalLM,
        {
            "head_dim": 32,
            "moe_intermediate_size": 64,
            "n_routed_experts": 12,
            "num_experts_per_tok": 3,
            "n_shared_experts": 2,
            "routed_scaling_factor": 1.5,
            "use_qk_norm": True,
            "attention_bias": True,
            "num_mtp_layers": 0,
        },
    ),
    "ernie4_5_moe": (
        transformers.Ernie4_5_MoeConfig,
        transformers.Ernie4_5_MoeForCausalLM,
        {"moe_intermediate_size": 64, "moe_num_experts": 12, "moe_k": 3, "moe_num_shared_experts": 2},
    ),
    "hunyuan_v1_moe": (
        transformers.HunYuanMoEV1Config,
        transformers.HunYuanMoEV1ForCausalLM,
        {"head_dim": 32, "num_experts": 6, "moe_topk": 2},
    ),
    "granitemoeshared": (
        transformers.GraniteMoeSharedConfig,
        transformers.GraniteMoeSharedForCausalLM,
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 64,
            "initializer_range": 0.12,  # with more, experts make of small differences large ones
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
        },
    ),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    *mixture_families.CASES,
    ("ministral3", {}),
    ("ministral3", {"rope_parameters": HALF_MSCALE}),
    ("ministral3", {"sliding_window": 24}),
    ("mistral3", {}),
    ("qwen3_vl", {}),
    ("qwen2_5_vl", {}),
    ("qwen2_vl", {}),
    ("qwen3_vl_moe", {}),
    ("exaone4", {}),
    ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 5}),
    ("exaone", {}),
    ("exaone", {"rope_parameters": LLAMA_3, "tie_word_embeddings": True}),
    ("cohere", {}),
    ("cohere2", {}),
    ("seed_oss", {}),
    ("helium", {}),
    ("arcee", {}),
    ("bitnet", {}),
    ("bitnet", {"hidden_act": "relu2", "tie_word_embeddings": True}),
    ("apertus", {}),
    ("apertus", {"rope_parameters": LLAMA_3}),
    ("gemma", {}),
    ("vaultgemma", {}),
    ("starcoder2", {}),
    ("starcoder2", {"sliding_window": 24}),
    ("stablelm", {}),
    ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": False}),
    ("phi", {}),
    ("phi", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    ("gpt_neox", {}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("nemotron", {}),
    ("olmo", {}),
    ("olmo", {"clip_qkv": 0.8}),
    ("mellum", {}),
    ("mellum", {"layer_types": None, "sliding_window": None}),
    ("sarvam_moe", {}),
    ("sarvam_moe", {"partial_rotary_factor": 0.5, "n_group": 1, "topk_group": 1}),
    ("afmoe", {}),
    ("afmoe", {"mup_enabled": False, "sliding_window": 48, "num_dense_layers": 2}),
    ("qwen2_moe", {}),
    ("qwen2_moe", {"norm_topk_prob": True, "tie_word_embeddings": True}),
    ("glm4_moe", {}),
    ("glm4_moe", {"norm_topk_prob": False, "use_qk_norm": False, "attention_bias": False}),
    ("ernie4_5_moe", {}),
    ("ernie4_5_moe", {"moe_num_shared_experts": 0}),
    ("hunyuan_v1_moe", {}),
    ("granitemoeshared", {}),
]


def saved(directory: Path, name: str, **more: Any) -> Any:
    config_class, model_class, shape = MODELS[name]
    own = shape if "text_config" in shape else {**SHAPE, **shape}
    return save_model(directory, model_class, config_class(**{**own, **more}, attn_implementation="eager"))
