"""GGUF files of families in `newer_families.py`: what they call parts and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf_twin import Twin


def shared(name: str) -> dict[str, str]:
    """Parts of the expert that works on all tokens."""
    return {f"mlp.{name}.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")}


def ungrouped(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray]:
    """All queries, then all keys and all values, which stand by heads in directories."""
    if ".attn_qkv." not in name:
        return {name: values}
    heads = values.reshape(config["num_attention_heads"], 3, -1, *values.shape[1:])
    return {name: heads.swapaxes(0, 1).reshape(values.shape)}


EPSILON = "attention.layer_norm_epsilon"
NOT_IN_GGUF = {
    "rope_parameters",
    "partial_rotary_factor",
    "scale_depth",
    "shared_expert_combination_strategy",
    "sliding_window",
    "tie_word_embeddings",
}  # of what cases set
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
    "exaone4": Twin(
        "exaone4",
        parts={
            "post_attention_layernorm": "post_attention_norm",
            "post_feedforward_layernorm": "post_ffw_norm",
        },
        keys={"layer_types": "attention.sliding_window_pattern"},
    ),
    "bitnet": Twin(
        "bitnet",
        parts={"self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm"},
    ),
    "exaone": Twin(
        "exaone",
        top={"wte": "token_embd", "ln_f": "output_norm"},
        parts={
            "ln_1": "attn_norm",
            **{f"attn.attention.{part}_proj": f"attn_{part}" for part in "qkv"},
            "attn.attention.out_proj": "attn_output",
            "ln_2": "ffn_norm",
            "mlp.c_fc_0": "ffn_gate",
            "mlp.c_fc_1": "ffn_up",
            "mlp.c_proj": "ffn_down",
        },
    ),
    "cohere": Twin("command-r", keys={"layer_norm_eps": EPSILON, "logit_scale": "logit_scale"}),
    "cohere2": Twin("cohere2", keys={"layer_norm_eps": EPSILON, "logit_scale": "logit_scale"}),
    "seed_oss": Twin("seed_oss", parts={"post_attention_layernorm": "post_attention_norm"}),
    "arcee": Twin("arcee", paired=True),
    "apertus": Twin(
        "apertus", parts={"attention_layernorm": "attn_norm", "feedforward_layernorm": "ffn_norm"}
    ),
    "gemma": Twin("gemma", norm_offset=1.0),
    "starcoder2": Twin(
        "starcoder2", parts={"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}, keys={"norm_epsilon": EPSILON}
    ),
    "stablelm": Twin(
        "stablelm",
        keys={"layer_norm_eps": EPSILON, "use_parallel_residual": "use_parallel_residual"},
        more={"rope.dimension_count": 8},
    ),
    "phi": Twin(
        "phi2",
        parts={"self_attn.dense": "attn_output", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"},
        top={"final_layernorm": "output_norm"},
        keys={"layer_norm_eps": EPSILON},
        more={"rope.dimension_count": 12},
    ),
    "gpt_neox": Twin(
        "gptneox",
        parts={
            "attention.query_key_value": "attn_qkv",
            "attention.dense": "attn_output",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
        top={"embed_in": "token_embd", "final_layer_norm": "output_norm", "embed_out": "output"},
        keys={"layer_norm_eps": EPSILON, "use_parallel_residual": "use_parallel_residual"},
        more={"rope.dimension_count": 8},
        split=ungrouped,
    ),
    "nemotron": Twin(
        "nemotron", keys={"norm_eps": EPSILON}, more={"rope.dimension_count": 12}, norm_offset=1.0
    ),
    "olmo": Twin("olmo", paired=True, keys={"clip_qkv": "attention.clamp_kqv"}, more={EPSILON: 1e-5}),
    "mellum": Twin(
        "mellum",
        keys={"layer_types": "attention.sliding_window_pattern"},
        more={
            "rope.freq_base": 500000.0,
            "rope.freq_base_swa": 20000.0,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
    "sarvam_moe": Twin(
        "bailingmoe2",
        top={"word_embeddings": "token_embd"},
        parts={
            **shared("shared_experts"),
            "attention.query_key_value": "attn_qkv",
            "attention.query_layernorm": "attn_q_norm",
            "attention.key_layernorm": "attn_k_norm",
            "attention.dense": "attn_output",
            "mlp.gate.expert_bias": "exp_probs_b.bias",
        },
        keys={
            "n_routed_experts": "expert_count",
            "n_group": "expert_group_count",
            "topk_group": "expert_group_used_count",
            "routed_scaling_factor": "expert_weights_scale",
            "norm_topk_prob": "expert_weights_norm",
        },
        more={"expert_gating_func": 2},
    ),
    "afmoe": Twin(
        "afmoe",
        parts={
            **shared("shared_experts"),
            "post_attention_layernorm": "post_attention_norm",
            "pre_mlp_layernorm": "ffn_norm",
            "post_mlp_layernorm": "post_ffw_norm",
            "self_attn.gate_proj": "attn_gate",
            "mlp.router.gate": "ffn_gate_inp",
            "mlp.expert_bias": "exp_probs_b.bias",
        },
        keys={"route_scale": "expert_weights_scale"},
        more={"expert_gating_func": 2, "expert_weights_norm": True},
    ),
    "qwen2_moe": Twin(
        "qwen2moe", parts={**shared("shared_expert"), "mlp.shared_expert_gate": "ffn_gate_inp_shexp"}
    ),
    "glm4_moe": Twin(
        "glm4moe",
        parts={
            **shared("shared_experts"),
            "post_attention_layernorm": "post_attention_norm",
            "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
        },
        keys={
            "n_routed_experts": "expert_count",
            "routed_scaling_factor": "expert_weights_scale",
            "norm_topk_prob": "expert_weights_norm",
        },
        more={"rope.dimension_count": 16, "expert_gating_func": 2},
    ),
    "ernie4_5_moe": Twin(
        "ernie4_5-moe",
        parts={
            **shared("shared_experts"),
            "mlp.moe_statics.e_score_correction_bias": "exp_probs_b.bias",
        },
        keys={"moe_num_experts": "expert_count", "moe_k": "expert_used_count"},
    ),
    "hunyuan_v1_moe": Twin(
        "hunyuan-moe",
        parts={
            **shared("shared_mlp"),
            "mlp.gate.wg": "ffn_gate_inp",
            "self_attn.query_layernorm": "attn_q_norm",
            "self_attn.key_layernorm": "attn_k_norm",
        },
        keys={"moe_topk": "expert_used_count", "intermediate_size": "feed_forward_length"},
        more={"expert_feed_forward_length": 160},
    ),
}
