"""Mixtures of experts, and MiniCPM3, that `newer_families.py` adds to its table."""

from __future__ import annotations

from typing import Any

import transformers

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0 + 0.5 * i for i in range(12)],  # all that this class of transformers reads
    "long_factor": [1.0 + 0.5 * i for i in range(12)],
    "short_mscale": 1.25,
    "long_mscale": 1.25,
}
NEAR = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 512,
    "short_factor": [1.0 + 0.1 * i for i in range(16)],
    "long_factor": [1.0 + 0.5 * i for i in range(16)],
}
CORRECTED = {
    "head_dim": 32,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "initializer_range": 0.12,
}
SUMMED = {
    "shared_expert_combination_strategy": "sum",
    "expert_selection_fn": "softmax",
    "rms_norm_eps": 1e-5,
    "prefix_dense_sliding_window_pattern": 2,
    "first_k_dense_replace": 2,
}
EXPERTS = {"num_experts": 12, "num_experts_per_tok": 3}
MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "phimoe": (
        transformers.PhimoeConfig,
        transformers.PhimoeForCausalLM,
        {
            "intermediate_size": 64,
            "num_local_experts": 6,
            "attention_bias": True,
            "lm_head_bias": True,
            "initializer_range": 0.12,
        },
    ),
    "dots1": (
        transformers.Dots1Config,
        transformers.Dots1ForCausalLM,
        {
            **CORRECTED,
            "num_experts_per_tok": 3,
            "n_routed_experts": 12,
            "n_shared_experts": 2,
            "norm_topk_prob": True,
            "sliding_window": None,
        },
    ),
    "exaone_moe": (
        transformers.ExaoneMoeConfig,
        transformers.ExaoneMoeForCausalLM,
        {**CORRECTED, **EXPERTS, "num_hidden_layers": 5, "sliding_window": 24},
    ),
    "minimax_m2": (
        transformers.MiniMaxM2Config,
        transformers.MiniMaxM2ForCausalLM,
        {
            "head_dim": 32,
            "num_local_experts": 12,
            "num_experts_per_tok": 3,
            "initializer_range": 0.12,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
        },
    ),
    "cohere2_moe": (
        transformers.Cohere2MoeConfig,
        transformers.Cohere2MoeForCausalLM,
        {
            "head_dim": 32,
            "intermediate_size": 64,
            "prefix_dense_intermediate_size": 160,
            "num_hidden_layers": 5,
            "num_experts": 12,
            "num_experts_per_tok": 3,
            "num_shared_experts": 2,
            "expert_selection_fn": "sigmoid",
            "first_k_dense_replace": 1,
            "sliding_window": 24,
            "initializer_range": 0.12,
            "logit_scale": 0.5,
        },
    ),
    "minicpm3": (
        transformers.MiniCPM3Config,
        transformers.MiniCPM3ForCausalLM,
        {
            "num_key_value_heads": 4,
            "kv_lora_rank": 64,
            "q_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 32,
        },
    ),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("phimoe", {}),
    ("phimoe", {"rope_parameters": LONGROPE, "router_jitter_noise": 0.2, "attention_bias": False}),
    ("phimoe", {"sliding_window": 24}),
    ("dots1", {}),
    ("dots1", {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5, "norm_topk_prob": False}),
    ("exaone_moe", {}),
    ("exaone_moe", {"n_group": 4, "topk_group": 2, "mlp_layer_types": ["sparse", *["sparse", "dense"] * 2]}),
    ("minimax_m2", {}),
    ("cohere2_moe", {}),
    ("cohere2_moe", SUMMED),
    ("minicpm3", {}),
    ("minicpm3", {"rope_parameters": NEAR, "q_lora_rank": None, "v_head_dim": 32}),
    ("minicpm3", {"scale_depth": None, "dim_model_base": None, "scale_emb": 3}),
]
