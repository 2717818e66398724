"""Latent attention against `transformers`: DeepSeek V2 and V3, GLM-4.7-Flash, as directories and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import transformers
from family_models import SHAPE, assert_agree, our_logits, random_ids, save_model, their_logits
from gguf_twin import Twin, write_twin
from newer_twins import shared
from runner_driver import DrivenSequence, RunnerDriver

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, Tensor, dequantize, open_checkpoint
from llm_serving.engine.protocol import EngineOptions

pytestmark = pytest.mark.parity

LATENT = {
    **SHAPE,
    "num_key_value_heads": 4,
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 24,
    "moe_intermediate_size": 64,
    "n_routed_experts": 12,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "initializer_range": 0.12,  # with more, experts make of small differences large ones
}
DENSE_FIRST = {"first_k_dense_replace": 1}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
PLAIN_YARN = {key: value for key, value in YARN.items() if not key.startswith("mscale")}
GROUPED = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "deepseek_v2": (
        transformers.DeepseekV2Config,
        transformers.DeepseekV2ForCausalLM,
        {**DENSE_FIRST, "rope_parameters": YARN, "routed_scaling_factor": 1.5},
    ),
    "deepseek_v3": (
        transformers.DeepseekV3Config,
        transformers.DeepseekV3ForCausalLM,
        {**DENSE_FIRST, "n_group": 4, "topk_group": 2, "num_mtp_layers": 0},
    ),
    "glm4_moe_lite": (transformers.Glm4MoeLiteConfig, transformers.Glm4MoeLiteForCausalLM, {}),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("deepseek_v2", {}),
    ("deepseek_v2", {"q_lora_rank": None, "n_shared_experts": 1}),
    ("deepseek_v2", {**GROUPED, "routed_scaling_factor": 16.0}),
    ("deepseek_v2", {"rope_parameters": {**YARN, "mscale": 1.0}}),
    ("deepseek_v2", {"rope_parameters": PLAIN_YARN}),
    ("deepseek_v3", {}),
    ("deepseek_v3", {"rope_interleave": False, "norm_topk_prob": False}),
    ("deepseek_v3", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    ("glm4_moe_lite", {}),
    ("glm4_moe_lite", {"tie_word_embeddings": True, "n_group": 2, "topk_group": 1, "q_lora_rank": None}),
]
PARTS = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.k_b_proj": "attn_k_b",
    "self_attn.v_b_proj": "attn_v_b",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    **shared("shared_experts"),
}
KEYS = {
    "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "n_routed_experts": "expert_count",
    "routed_scaling_factor": "expert_weights_scale",
}


def saved(directory: Path, name: str, **more: Any) -> Any:
    config_class, model_class, shape = MODELS[name]
    config = config_class(**{**LATENT, **shape, **more}, attn_implementation="eager")
    return save_model(directory, model_class, config)


def split(directory: Checkpoint) -> Checkpoint:
    """With keys and values of heads in two tensors, keys transposed, as newer files have them."""
    config, tensors = directory.metadata, {}
    plain, values = config["qk_nope_head_dim"], config["v_head_dim"]
    for name, tensor in directory.tensors.items():
        if not name.endswith("kv_b_proj.weight"):
            tensors[name] = tensor
            continue
        heads = dequantize(tensor).reshape(-1, plain + values, tensor.shape[1])
        for part, rows in (("k_b", heads[:, :plain].swapaxes(1, 2)), ("v_b", heads[:, plain:])):
            own = name.replace("kv_b", part)
            tensors[own] = Tensor(
                own, "F32", rows.shape, np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
            )
    return replace(directory, tensors=tensors)


def twin_of(directory: Checkpoint, *, is_split: bool) -> Twin:
    config, mla = directory.metadata, "_mla" if is_split else ""
    query = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    shared_key = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    more: dict[str, Any] = {
        "attention.key_length": shared_key,
        "attention.value_length": config["kv_lora_rank"],
    }
    more |= {f"attention.key_length{mla}": query, f"attention.value_length{mla}": config["v_head_dim"]}
    if config["model_type"] != "deepseek_v2":
        more |= {"expert_gating_func": 2, "expert_weights_norm": config["norm_topk_prob"]}
    if config.get("topk_method", "") != "greedy":
        more |= {"expert_group_count": config["n_group"], "expert_group_used_count": config["topk_group"]}
    rope = config["rope_parameters"]
    if rope["rope_type"] == "yarn":
        more |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            **(
                {"rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"]}
                if "mscale_all_dim" in rope
                else {}
            ),
        }
    return Twin("deepseek2", parts=PARTS, keys=KEYS, more=more)


@pytest.mark.parametrize(("name", "more"), CASES)
def test_logits(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    model, ids = saved(tmp_path, name, **more), random_ids()
    directory, theirs = open_checkpoint(tmp_path), their_logits(model, ids)
    assert_agree(our_logits(directory, ids), theirs)
    rope = directory.metadata["rope_parameters"]
    if not more.get("rope_interleave", True) or rope.get("mscale") != rope.get("mscale_all_dim"):
        return  # which files cannot say
    for name, whole in (("split", split(directory)), ("whole", directory)):
        twin = twin_of(directory, is_split=name == "split")
        file = open_checkpoint(write_twin(tmp_path / f"{name}.gguf", whole, twin))
        assert_agree(our_logits(file, ids), theirs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("quantization", "kv_cache", "near"), [("q8", "q16", 0.06), ("q8", "q8", 0.07)])
def test_packed_weights_say_nearly_the_same(
    name: str, quantization: str, kv_cache: str, near: float, tmp_path: Path
) -> None:
    theirs = their_logits(saved(tmp_path, name), random_ids())
    options = EngineOptions(quantization=quantization, kv_cache=kv_cache, threads=2)
    runner = build_runner(open_checkpoint(tmp_path), options)
    try:
        ours = RunnerDriver(runner).step([(DrivenSequence(), random_ids())])
    finally:
        runner.close()
    error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    assert np.median(error) < near
