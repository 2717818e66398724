"""Families that read pictures: in tiles of one size, or each in its own."""

from __future__ import annotations

VISION_FAMILIES = {
    "gemma3": "gemma3_vision:describe_vision",
    "idefics3": "idefics3:describe_vision",
    "smolvlm": "idefics3:describe_vision",
}
ANY_SIZE_FAMILIES = {
    "gemma4": "gemma4_vision:describe_vision",
    "qwen2_5_vl": "qwen2_5_vl:describe_vision",
    "qwen2_vl": "qwen2_vl:describe_vision",
    "qwen3_5": "qwen3_vl:describe_vision",
    "qwen3_5_moe": "qwen3_vl:describe_vision",
    "qwen3_vl": "qwen3_vl:describe_vision",
    "qwen3_vl_moe": "qwen3_vl:describe_vision",
}
