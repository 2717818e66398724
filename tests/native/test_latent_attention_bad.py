"""Headers of models with latent attention that do not fit: each a line that names the key or the tensor."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tiny_latent import ROTATED, write_latent_directory, write_tiny_latent

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError


def opened(path: Path, **shape: Any) -> Checkpoint:
    return open_checkpoint(write_tiny_latent(path, **shape))


def with_keys(checkpoint: Checkpoint, keys: dict[str, Any]) -> Checkpoint:
    named = {f"deepseek2.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.kv_lora_rank", 48, "'deepseek2.attention.kv_lora_rank' .* multiple of 32"),
        ("attention.kv_lora_rank", None, "'deepseek2.attention.kv_lora_rank' .* positive integer"),
        ("attention.kv_lora_rank", 1 << 30, "shape .* By its header"),
        ("attention.head_count", 1 << 30, "shape .* By its header"),
        ("attention.head_count", 2, "shape .* By its header"),
        ("attention.key_length_mla", 32, "'deepseek2.attention.key_length_mla' .* 32 and a multiple of 32"),
        ("attention.value_length_mla", 32, "shape .* By its header"),
        ("rope.dimension_count", 8, "'deepseek2.rope.dimension_count' .* multiple of 32"),
        ("expert_group_count", 3, "'deepseek2.expert_group_count' .* cannot be chosen"),
        ("expert_group_used_count", 5, "'deepseek2.expert_group_count' .* cannot be chosen"),
        ("expert_group_count", 1 << 30, "'deepseek2.expert_group_count' .* cannot be chosen"),
        ("expert_gating_func", 3, "'deepseek2.expert_gating_func' .* supported: 1 and 2"),
        ("expert_weights_scale", 1e9, "'deepseek2.expert_weights_scale'"),
        ("expert_count", 1 << 30, "'deepseek2.expert_group_count' .* cannot|rows where there are"),
        ("block_count", 1 << 30, "'deepseek2.block_count'"),
    ],
)
def test_a_header_that_does_not_fit_is_named(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        describe(with_keys(opened(tmp_path / "m.gguf"), {key: value}))


@pytest.mark.parametrize(
    "name", ["attn_kv_a_mqa.weight", "attn_v_b.weight", "attn_q_b.weight", "attn_output.weight"]
)
def test_a_tensor_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    checkpoint = opened(tmp_path / "m.gguf")
    rest = {own: tensor for own, tensor in checkpoint.tensors.items() if own != f"blk.0.{name}"}
    with pytest.raises(CheckpointError, match=f"no tensor 'blk.0.{name}'"):
        describe(dataclasses.replace(checkpoint, tensors=rest))


def test_heads_beyond_what_the_cache_takes(tmp_path: Path) -> None:
    """The first layer's tensors may fit a header that no kernel runs."""
    checkpoint = opened(tmp_path / "m.gguf", layers=1)
    wide = with_keys(checkpoint, {"attention.kv_lora_rank": 1024})
    tensors = dict(checkpoint.tensors)
    for name, shape in {
        "attn_kv_a_mqa": (1024 + ROTATED, 64),
        "attn_k_b": (4, 1024, 32),
        "attn_v_b": (4, 16, 1024),
    }.items():
        tensors[f"blk.0.{name}.weight"] = dataclasses.replace(tensors[f"blk.0.{name}.weight"], shape=shape)
    with pytest.raises(CheckpointError, match="1056 dimensions; .* up to 576|no tensor"):
        describe(dataclasses.replace(wide, tensors=tensors))


NOT_YARN = {"type": "dynamic", "factor": 2.0}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kv_lora_rank": 48}, "'kv_lora_rank' .* multiple of 32"),
        ({"kv_lora_rank": None}, "'kv_lora_rank' .* positive integer"),
        ({"qk_rope_head_dim": 16}, "'qk_rope_head_dim' .* multiple of 32"),
        ({"qk_nope_head_dim": 64}, "shape .* By its header"),
        (
            {"q_lora_rank": 32},
            "q_a_proj.weight' has 64 rows where",
        ),
        ({"q_lora_rank": None}, "no tensor 'model.layers.0.self_attn.q_proj.weight'"),
        ({"v_head_dim": 1 << 30}, "shape .* By its header"),
        ({"num_attention_heads": 1 << 30, "num_key_value_heads": None}, "shape .* By its header"),
        ({"num_key_value_heads": 2}, "'num_key_value_heads' .* supported: 4"),
        ({"num_hidden_layers": 1 << 30}, "'num_hidden_layers'"),
        ({"num_hidden_layers": 4}, "no tensor 'model.layers.3"),
        ({"n_group": 3}, "'n_group' and 'topk_group' .* are 3 and 2"),
        ({"n_group": 8}, "'n_group' and 'topk_group' .* are 8 and 2"),
        ({"n_group": 0}, "'n_group' .* positive integer"),
        ({"topk_group": 1 << 30}, "'n_group' and 'topk_group'"),
        ({"n_routed_experts": 1 << 30}, "rows where there are"),
        ({"num_experts_per_tok": 5}, "'n_group' and 'topk_group' .*5 of 8 experts"),
        ({"moe_intermediate_size": 48}, "'moe_intermediate_size' .* multiple of 32"),
        ({"routed_scaling_factor": 1e9}, "'routed_scaling_factor'"),
        ({"scoring_func": "softmax"}, "'scoring_func' .* supported: sigmoid"),
        ({"topk_method": "greedy"}, "'topk_method' .* supported: noaux_tc"),
        ({"moe_layer_freq": 2}, "'moe_layer_freq'"),
        ({"attention_bias": True}, "'attention_bias'"),
        ({"hidden_act": "gelu"}, "'hidden_act'"),
        ({"rope_interleave": 3}, "'rope_interleave'"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' .* 16 of 32"),
        ({"rope_scaling": NOT_YARN}, "'dynamic'"),
        ({"rope_scaling": "yarn"}, "no object"),
        ({"model_type": "deepseek_v2"}, "'norm_topk_prob'"),
        ({"model_type": "deepseek_v2", "norm_topk_prob": False, "topk_method": "noaux_tc"}, "'topk_method'"),
        ({"model_type": "glm4_moe_lite", "n_group": [1]}, "'n_group' .* positive integer"),
    ],
)
def test_a_config_that_does_not_fit_is_named(
    config: dict[str, Any], message: str, tmp_path: Path, make_driver
) -> None:
    file = write_tiny_latent(tmp_path / "m.gguf", is_split=False)
    with pytest.raises(CheckpointError, match=message):
        make_driver(open_checkpoint(write_latent_directory(tmp_path / "d", file, **config)))
