"""Tiny Qwen3.5 directories of random weights that see, dense and of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_qwen_vl import (
    EXPERT_FFN,
    EXPERTS,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    MIXTURE,
    VISION_3,
    Shapes,
    shapes_3,
    write_3,
)

VISION_3_5 = {key: value for key, value in VISION_3.items() if key != "deepstack_visual_indexes"}
SHARED_FFN = 96
HEAD_DIM, DELTA_HEADS, DELTA_DIM = 32, 2, 32  # of what attends, and of what remembers
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": HEAD_DIM,
    "rope_scaling": None,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
    "linear_conv_kernel_dim": 4,
    "linear_num_key_heads": DELTA_HEADS,
    "linear_num_value_heads": DELTA_HEADS,
    "linear_key_head_dim": DELTA_DIM,
    "linear_value_head_dim": DELTA_DIM,
}


def write_tiny_qwen3_5(directory: Path, **config: Any) -> Path:
    """A layer that remembers, and one that attends."""
    return write_3(directory, "qwen3_5", _shapes_3_5(), {"vision_config": VISION_3_5, **config}, HYBRID)


def write_tiny_qwen3_5_moe(directory: Path, **config: Any) -> Path:
    """Experts of a layer in two tensors, as outputs x inputs, and one that all tokens share."""
    shapes = {name: shape for name, shape in _shapes_3_5().items() if ".mlp." not in name or "visual" in name}
    for i in range(LAYERS):
        mixture = f"model.language_model.layers.{i}.mlp."
        shapes[f"{mixture}gate.weight"] = (EXPERTS, HIDDEN)
        shapes[f"{mixture}experts.gate_up_proj"] = (EXPERTS, 2 * EXPERT_FFN, HIDDEN)
        shapes[f"{mixture}experts.down_proj"] = (EXPERTS, HIDDEN, EXPERT_FFN)
        shapes[f"{mixture}shared_expert_gate.weight"] = (1, HIDDEN)
        for name in ("gate_proj", "up_proj", "down_proj"):
            size = (HIDDEN, SHARED_FFN) if name == "down_proj" else (SHARED_FFN, HIDDEN)
            shapes[f"{mixture}shared_expert.{name}.weight"] = size
    text = {**HYBRID, **MIXTURE, "shared_expert_intermediate_size": SHARED_FFN}
    return write_3(directory, "qwen3_5_moe", shapes, {"vision_config": VISION_3_5, **config}, text)


def _shapes_3_5() -> Shapes:
    shapes = {name: shape for name, shape in shapes_3(0).items() if "layers.0.self_attn" not in name}
    inner, layers = DELTA_HEADS * DELTA_DIM, "model.language_model.layers."
    shapes |= {
        f"{layers}0.linear_attn.in_proj_qkv.weight": (3 * inner, HIDDEN),
        f"{layers}0.linear_attn.in_proj_z.weight": (inner, HIDDEN),
        f"{layers}0.linear_attn.in_proj_b.weight": (DELTA_HEADS, HIDDEN),
        f"{layers}0.linear_attn.in_proj_a.weight": (DELTA_HEADS, HIDDEN),
        f"{layers}0.linear_attn.conv1d.weight": (3 * inner, 1, 4),
        f"{layers}0.linear_attn.A_log": (DELTA_HEADS,),
        f"{layers}0.linear_attn.dt_bias": (DELTA_HEADS,),
        f"{layers}0.linear_attn.norm.weight": (DELTA_DIM,),
        f"{layers}0.linear_attn.out_proj.weight": (HIDDEN, inner),
        f"{layers}1.self_attn.q_proj.weight": (2 * HEADS * HEAD_DIM, HIDDEN),
        f"{layers}1.self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
    }
    for name in "kv":
        shapes[f"{layers}1.self_attn.{name}_proj.weight"] = (KV_HEADS * HEAD_DIM, HIDDEN)
    for name in "qk":
        shapes[f"{layers}1.self_attn.{name}_norm.weight"] = (HEAD_DIM,)
    return shapes
