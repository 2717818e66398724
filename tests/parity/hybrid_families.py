"""Families of layers that remember beside layers that attend, as directories and as GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import transformers
from family_models import SHAPE, save_model
from gguf_twin import Twin

MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "lfm2_moe": (
        transformers.Lfm2MoeConfig,
        transformers.Lfm2MoeForCausalLM,
        {
            "num_hidden_layers": 5,
            "layer_types": ["conv", "conv", "full_attention", "conv", "full_attention"],
            "moe_intermediate_size": 64,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "num_dense_layers": 2,
            "initializer_range": 0.15,
        },
    ),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("lfm2_moe", {}),
    ("lfm2_moe", {"num_dense_layers": 0, "use_expert_bias": False, "tie_word_embeddings": False}),
    ("lfm2_moe", {"norm_topk_prob": False, "routed_scaling_factor": 1.5}),
]


def flat_convolution(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray]:
    return {name: values[:, 0] if ".shortconv.conv." in name else values}


TWINS = {
    "lfm2_moe": Twin(
        "lfm2moe",
        top={"embedding_norm": "token_embd_norm"},
        parts={
            "operator_norm": "attn_norm",
            "ffn_norm": "ffn_norm",
            "self_attn.q_layernorm": "attn_q_norm",
            "self_attn.k_layernorm": "attn_k_norm",
            "self_attn.out_proj": "attn_output",
            "conv.in_proj": "shortconv.in_proj.weight",
            "conv.conv": "shortconv.conv.weight",
            "conv.out_proj": "shortconv.out_proj.weight",
            "feed_forward.w1": "ffn_gate",
            "feed_forward.w3": "ffn_up",
            "feed_forward.w2": "ffn_down",
            "feed_forward.gate": "ffn_gate_inp",
            "feed_forward.expert_bias": "exp_probs_b.bias",
            "feed_forward.experts.w1": "ffn_gate_exps",
            "feed_forward.experts.w3": "ffn_up_exps",
            "feed_forward.experts.w2": "ffn_down_exps",
        },
        keys={
            "norm_eps": "attention.layer_norm_rms_epsilon",
            "num_dense_layers": "leading_dense_block_count",
            "conv_L_cache": "shortconv.l_cache",
            "routed_scaling_factor": "expert_weights_scale",
        },
        more={"attention.head_count_kv": [0, 0, 2, 0, 2], "expert_gating_func": 2},
        split=flat_convolution,
    ),
}
NOT_IN_GGUF = {"norm_topk_prob"}  # of what cases set


def saved(directory: Path, name: str, **more: Any) -> Any:
    config_class, model_class, shape = MODELS[name]
    config = config_class(**{**SHAPE, **shape, **more}, attn_implementation="eager")
    return save_model(directory, model_class, config)
