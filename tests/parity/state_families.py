"""Families with states beside attention in a layer, or in every layer, as directories and as GGUF files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from family_models import SHAPE, save_model
from gguf_twin import Twin
from hybrid_families import GRANITE_HYBRID, mamba_and_mlp

MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "falcon_h1": (
        transformers.FalconH1Config,
        transformers.FalconH1ForCausalLM,
        {
            "num_hidden_layers": 2,
            "head_dim": 24,
            "mamba_d_ssm": 128,
            "mamba_n_heads": 4,
            "mamba_d_head": 32,
            "mamba_d_state": 24,
            "mamba_n_groups": 2,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
            "embedding_multiplier": 5.5,
            "lm_head_multiplier": 0.7,
            "key_multiplier": 0.4,
            "attention_in_multiplier": 1.3,
            "attention_out_multiplier": 0.9,
            "ssm_in_multiplier": 1.2,
            "ssm_out_multiplier": 0.3,
            "mlp_multipliers": [0.9, 0.2],
            "ssm_multipliers": [0.8, 1.4, 0.6, 1.7, 0.5],
        },
    ),
    "mamba2": (
        transformers.Mamba2Config,
        transformers.Mamba2ForCausalLM,
        {
            "num_hidden_layers": 3,
            "num_heads": 6,
            "head_dim": 32,
            "state_size": 24,
            "n_groups": 2,
            "initializer_range": 0.15,
        },
    ),
    "mamba": (
        transformers.MambaConfig,
        transformers.MambaForCausalLM,
        {"num_hidden_layers": 3, "state_size": 16, "time_step_rank": 24, "initializer_range": 0.2},
    ),
    "falcon_mamba": (
        transformers.FalconMambaConfig,
        transformers.FalconMambaForCausalLM,
        {"num_hidden_layers": 3, "state_size": 16, "time_step_rank": 32, "initializer_range": 0.2},
    ),
    "jamba": (
        transformers.JambaConfig,
        transformers.JambaForCausalLM,
        {
            "num_hidden_layers": 4,
            "attn_layer_period": 3,
            "attn_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_dt_rank": 24,
            "mamba_d_state": 16,
        },
    ),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("falcon_h1", {}),
    ("falcon_h1", {"mamba_rms_norm": False, "mamba_n_groups": 1, "tie_word_embeddings": True}),
    ("mamba2", {}),
    ("mamba2", {"n_groups": 1, "use_conv_bias": False}),
    ("mamba", {}),
    ("mamba", {"use_conv_bias": False, "tie_word_embeddings": False}),
    ("falcon_mamba", {}),
    ("jamba", {}),
    ("jamba", {"num_experts": 1, "tie_word_embeddings": True}),
]
NOT_IN_GGUF = {"tie_word_embeddings"}  # of what cases set


def multiplied(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray]:
    """As conversion folds Falcon-H1's multipliers; its second norm has no ending."""
    before, (gate, down) = config["attention_in_multiplier"], config["mlp_multipliers"]
    factors = {
        "token_embd": config["embedding_multiplier"],
        "output": config["lm_head_multiplier"],
        "attn_q": before,
        "attn_k": before * config["key_multiplier"],
        "attn_v": before,
        "attn_output": config["attention_out_multiplier"],
        "ssm_out": config["ssm_out_multiplier"],
        "ffn_gate": gate,
        "ffn_down": down,
    }
    part = name.removesuffix(".weight").rpartition(".")[2]
    if part == "ffn_norm":
        return {name.removesuffix(".weight"): values}
    if part == "ssm_in":
        inner, shared = config["mamba_d_ssm"], config["mamba_n_groups"] * config["mamba_d_state"]
        sizes = [inner, inner, shared, shared, config["mamba_n_heads"]]
        factor = np.repeat(config["ssm_multipliers"], sizes)[:, None] * config["ssm_in_multiplier"]
        return {name: (values * factor).astype(np.float32)}
    return mamba_and_mlp(name, values * np.float32(factors.get(part, 1.0)), config)


TWINS = {
    "falcon_h1": Twin(
        "falcon-h1",
        top={"final_layernorm": "output_norm"},
        parts={
            **{part: own for part, own in GRANITE_HYBRID.parts.items() if part.startswith("mamba.")},
            "pre_ff_layernorm": "ffn_norm",
            "feed_forward.gate_proj": "ffn_gate",
            "feed_forward.up_proj": "ffn_up",
            "feed_forward.down_proj": "ffn_down",
        },
        keys={
            "mamba_d_conv": "ssm.conv_kernel",
            "mamba_d_state": "ssm.state_size",
            "mamba_n_groups": "ssm.group_count",
            "mamba_n_heads": "ssm.time_step_rank",
            "mamba_d_ssm": "ssm.inner_size",
        },
        split=multiplied,
    ),
}


MIXER = {
    "mixer.in_proj": "ssm_in",
    "mixer.conv1d": "ssm_conv1d",
    "mixer.x_proj": "ssm_x",
    "mixer.dt_proj": "ssm_dt",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.norm": "ssm_norm",
    "mixer.out_proj": "ssm_out",
    "norm": "attn_norm",
}
SSM_KEYS = {
    "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
    "conv_kernel": "ssm.conv_kernel",
    "state_size": "ssm.state_size",
}


def selective(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray]:
    """As conversion turns what belongs to Mamba's first version."""
    bare, _, end = name.rpartition(".")
    if bare.endswith(".ssm_a"):
        return {bare: -np.exp(values)}
    if bare.endswith(".ssm_d"):
        return {bare: values}
    return {name: values[:, 0] if bare.endswith(".ssm_conv1d") and end == "weight" else values}


TOP = {"embeddings": "token_embd", "norm_f": "output_norm"}
TWINS["mamba2"] = Twin(
    "mamba2",
    top=TOP,
    parts=MIXER,
    keys={**SSM_KEYS, "n_groups": "ssm.group_count", "num_heads": "ssm.time_step_rank"},
    more={"context_length": 1 << 20, "ssm.inner_size": 192, "attention.head_count": 0},
    split=mamba_and_mlp,
)
TWINS["mamba"] = Twin(
    "mamba",
    top=TOP,
    parts=MIXER,
    keys={**SSM_KEYS, "time_step_rank": "ssm.time_step_rank", "intermediate_size": "ssm.inner_size"},
    more={"context_length": 1 << 20, "ssm.dt_b_c_rms": False, "attention.head_count": 0},
    split=selective,
)
TWINS["falcon_mamba"] = replace(TWINS["mamba"], more={**TWINS["mamba"].more, "ssm.dt_b_c_rms": True})
TWINS["jamba"] = Twin(
    "jamba",
    top={"final_layernorm": "output_norm"},
    parts={
        **{part.replace("mixer.", "mamba."): own for part, own in MIXER.items() if part != "norm"},
        "mamba.dt_layernorm": "ssm_dt_norm",
        "mamba.b_layernorm": "ssm_b_norm",
        "mamba.c_layernorm": "ssm_c_norm",
        "pre_ff_layernorm": "ffn_norm",
        "feed_forward.router": "ffn_gate_inp",
        **{f"feed_forward.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
        **{f"feed_forward.experts.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")},
    },
    keys={
        "mamba_d_conv": "ssm.conv_kernel",
        "mamba_d_state": "ssm.state_size",
        "mamba_dt_rank": "ssm.time_step_rank",
    },
    more={"attention.head_count_kv": [0, 2, 0, 0], "ssm.inner_size": 192},
    split=selective,
)


def saved(directory: Path, name: str, **more: Any) -> Any:
    config_class, model_class, shape = MODELS[name]
    config = config_class(**{**SHAPE, **shape, **more}, attn_implementation="eager")
    return save_model(directory, model_class, config)
