"""GGUF files of families in `mixture_families.py`: what they call parts and sizes."""

from __future__ import annotations

from gguf_twin import Twin
from newer_twins import EPSILON, shared

BLOCK_SPARSE = {
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.w2": "ffn_down_exps",
    "block_sparse_moe.experts.w3": "ffn_up_exps",
}
SCALED = {
    "routed_scaling_factor": "expert_weights_scale",
    "norm_topk_prob": "expert_weights_norm",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
}
TWINS = {
    "phimoe": Twin("phimoe", parts=BLOCK_SPARSE),
    "dots1": Twin(
        "dots1",
        parts={
            **shared("shared_experts"),
            "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
        },
        keys={**SCALED, "n_routed_experts": "expert_count"},
    ),
    "exaone_moe": Twin(
        "exaone-moe",
        parts={**shared("shared_experts"), "mlp.e_score_correction_bias": "exp_probs_b.bias"},
        keys={**SCALED, "layer_types": "attention.sliding_window_pattern"},
        more={"expert_gating_func": 2},
    ),
    "minimax_m2": Twin(
        "minimax-m2",
        parts={**BLOCK_SPARSE, "block_sparse_moe.e_score_correction_bias": "exp_probs_b.bias"},
        more={"expert_feed_forward_length": 160, "rope.dimension_count": 16},
    ),
    "cohere2_moe": Twin(
        "cohere2moe",
        parts=shared("shared_experts"),
        keys={
            "layer_norm_eps": EPSILON,
            "logit_scale": "logit_scale",
            "layer_types": "attention.sliding_window_pattern",
            "intermediate_size": "expert_feed_forward_length",
            "prefix_dense_intermediate_size": "feed_forward_length",
            "norm_topk_prob": "expert_weights_norm",
        },
    ),
    "minicpm3": Twin(
        "minicpm3",
        parts={
            "self_attn.q_a_proj": "attn_q_a",
            "self_attn.q_a_layernorm": "attn_q_a_norm",
            "self_attn.q_b_proj": "attn_q_b",
            "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
            "self_attn.kv_a_layernorm": "attn_kv_a_norm",
            "self_attn.kv_b_proj": "attn_kv_b",
        },
        keys={"kv_lora_rank": "attention.kv_lora_rank", "q_lora_rank": "attention.q_lora_rank"},
        more={"attention.key_length": 64, "rope.dimension_count": 32},
    ),
}
