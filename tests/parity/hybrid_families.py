"""Families of layers that remember beside layers that attend, as directories and as GGUF files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from family_models import SHAPE, save_model
from gguf_twin import Twin

LAYERS = ["mamba", "mamba", "attention", "mamba", "attention"]
GRANITE = {
    "num_hidden_layers": 5,
    "layer_types": LAYERS,
    "mamba_n_heads": 6,
    "mamba_d_head": 32,
    "mamba_d_state": 32,
    "mamba_n_groups": 2,
    "initializer_range": 0.12,  # a state adds up small differences
    "embedding_multiplier": 6.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.4,
    "logits_scaling": 0.5,
}
NEMOTRON = {
    "layers_block_type": ["mamba", "mlp", "mamba", "attention", "mlp"],
    "mamba_num_heads": 4,
    "mamba_head_dim": 80,
    "ssm_state_size": 32,
    "n_groups": 2,
    "head_dim": 32,
    "layer_norm_epsilon": 1e-3,
    "initializer_range": 0.1,
}
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
    "granitemoehybrid": (
        transformers.GraniteMoeHybridConfig,
        transformers.GraniteMoeHybridForCausalLM,
        {
            **GRANITE,
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "intermediate_size": 64,
            "shared_intermediate_size": 96,
        },
    ),
    "granitemoehybrid_dense": (
        transformers.GraniteMoeHybridConfig,
        transformers.GraniteMoeHybridForCausalLM,
        {**GRANITE, "num_local_experts": 0, "intermediate_size": 160, "shared_intermediate_size": 160},
    ),
    "nemotron_h": (transformers.NemotronHConfig, transformers.NemotronHForCausalLM, NEMOTRON),
    "nemotron_h_moe": (
        transformers.NemotronHConfig,
        transformers.NemotronHForCausalLM,
        {
            **NEMOTRON,
            "layers_block_type": ["mamba", "moe", "attention", "mamba", "moe"],
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 64,
            "moe_shared_expert_intermediate_size": 96,
            "routed_scaling_factor": 1.5,
        },
    ),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("lfm2_moe", {}),
    ("lfm2_moe", {"num_dense_layers": 0, "use_expert_bias": False, "tie_word_embeddings": False}),
    ("lfm2_moe", {"norm_topk_prob": False, "routed_scaling_factor": 1.5}),
    ("granitemoehybrid", {}),
    ("granitemoehybrid", {"mamba_n_groups": 1, "tie_word_embeddings": True, "mamba_d_state": 128}),
    ("granitemoehybrid", {"position_embedding_type": "rope", "mamba_conv_bias": False}),
    ("granitemoehybrid_dense", {}),
    ("nemotron_h", {}),
    ("nemotron_h", {"use_conv_bias": False, "n_groups": 1}),
    ("nemotron_h", {"tie_word_embeddings": True}),  # which `transformers` does not do
    ("nemotron_h_moe", {}),
    ("nemotron_h_moe", {"layers_block_type": ["mamba", "moe", "attention", "mlp"]}),
    ("nemotron_h_moe", {"norm_topk_prob": False, "routed_scaling_factor": 1.0}),
    ("granitemoehybrid_dense", {"layer_types": ["attention"] * 5, "position_embedding_type": "rope"}),
]


def mamba_and_mlp(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray]:
    """As conversion turns and cuts what belongs to Mamba-2, and gates from what they open."""
    layer, _, part = name.removesuffix(".weight").rpartition(".")
    if part == "ssm_a":
        return {f"{layer}.ssm_a": -np.exp(values)[:, None]}
    if part == "ssm_d":
        return {f"{layer}.ssm_d": values[:, None]}
    if part == "ssm_conv1d":
        return {name: values[:, 0]}
    if part == "ssm_norm":
        return {name: values.reshape(config.get("mamba_n_groups") or config["n_groups"], -1)}
    if part in ("gate_up_shexp", "gate_up_exps"):
        gate, up = np.split(values, 2, axis=-2)
        kind = part.removeprefix("gate_up") if config["num_local_experts"] else ""
        return {f"{layer}.ffn_gate{kind}.weight": gate, f"{layer}.ffn_up{kind}.weight": up}
    return {name: values}


GRANITE_HYBRID = Twin(
    "granitehybrid",
    paired=True,
    parts={
        "mamba.in_proj": "ssm_in",
        "mamba.conv1d": "ssm_conv1d",
        "mamba.dt_bias": "ssm_dt.bias",
        "mamba.A_log": "ssm_a",
        "mamba.D": "ssm_d",
        "mamba.norm": "ssm_norm",
        "mamba.out_proj": "ssm_out",
        "block_sparse_moe.router.layer": "ffn_gate_inp",
        "block_sparse_moe.input_linear": "gate_up_exps",
        "block_sparse_moe.output_linear": "ffn_down_exps",
        "shared_mlp.input_linear": "gate_up_shexp",
        "shared_mlp.output_linear": "ffn_down_shexp",
    },
    keys={
        "mamba_d_conv": "ssm.conv_kernel",
        "mamba_d_state": "ssm.state_size",
        "mamba_n_groups": "ssm.group_count",
        "mamba_n_heads": "ssm.time_step_rank",
        "embedding_multiplier": "embedding_scale",
        "attention_multiplier": "attention.scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    },
    more={
        "attention.head_count_kv": [0, 0, 2, 0, 2],
        "ssm.inner_size": 192,
        "rope.scaling.finetuned": False,
    },
    split=mamba_and_mlp,
)


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
MIXER = {
    "mixer.in_proj": "ssm_in",
    "mixer.conv1d": "ssm_conv1d",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.norm": "ssm_norm",
    "mixer.out_proj": "ssm_out",
    "mixer.q_proj": "attn_q",
    "mixer.k_proj": "attn_k",
    "mixer.v_proj": "attn_v",
    "mixer.o_proj": "attn_output",
    "mixer.up_proj": "ffn_up",
    "mixer.down_proj": "ffn_down",
    "mixer.gate": "ffn_gate_inp",
    "mixer.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mixer.experts.up_proj": "ffn_up_exps",
    "mixer.experts.down_proj": "ffn_down_exps",
    "mixer.shared_experts.up_proj": "ffn_up_shexp",
    "mixer.shared_experts.down_proj": "ffn_down_shexp",
    "norm": "attn_norm",
}
TWINS["nemotron_h"] = Twin(
    "nemotron_h",
    top={"embeddings": "token_embd", "norm_f": "output_norm"},
    parts=MIXER,
    keys={
        "layer_norm_epsilon": "attention.layer_norm_epsilon",
        "conv_kernel": "ssm.conv_kernel",
        "ssm_state_size": "ssm.state_size",
        "n_groups": "ssm.group_count",
        "mamba_num_heads": "ssm.time_step_rank",
    },
    more={
        "block_count": 5,
        "attention.head_count_kv": [0, 0, 0, 2, 0],
        "feed_forward_length": [0, 160, 0, 0, 160],
        "ssm.inner_size": 320,
    },
    split=mamba_and_mlp,
)
TWINS["nemotron_h_moe"] = replace(
    TWINS["nemotron_h"],
    architecture="nemotron_h_moe",
    keys={
        **TWINS["nemotron_h"].keys,
        "n_routed_experts": "expert_count",
        "moe_shared_expert_intermediate_size": "expert_shared_feed_forward_length",
        "norm_topk_prob": "expert_weights_norm",
        "routed_scaling_factor": "expert_weights_scale",
        "n_group": "expert_group_count",
    },
    more={
        "block_count": 5,
        "attention.head_count_kv": [0, 0, 2, 0, 0],
        "feed_forward_length": [0, 64, 0, 0, 64],
        "ssm.inner_size": 320,
    },
)
TWINS["granitemoehybrid"] = GRANITE_HYBRID
TWINS["granitemoehybrid_dense"] = replace(
    GRANITE_HYBRID, parts={**GRANITE_HYBRID.parts, "shared_mlp.output_linear": "ffn_down"}
)
NOT_IN_GGUF = {"norm_topk_prob", "position_embedding_type", "layers_block_type"}  # of what cases set


def saved(directory: Path, name: str, **more: Any) -> Any:
    config_class, model_class, shape = MODELS[name]
    config = config_class(**{**SHAPE, **shape, **more}, attn_implementation="eager")
    return save_model(directory, model_class, config)
