"""What newer families refuse, and text parts of directories that see. Numbers are for `make parity`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder_directories import write_directory
from tiny_models import SMALLEST_VOCAB, write_tiny_llama

from llm_serving.architectures import describe
from llm_serving.checkpoints import open_checkpoint
from llm_serving.errors import CheckpointError

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "moe_topk": 2}
PHI = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {"qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "kv_lora_rank": 32, "q_lora_rank": None}
GROWING = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "llama_4_scaling_beta": 9.0,
}


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("afmoe", {"route_norm": False}, "'route_norm'"),
        ("afmoe", {"n_group": 4}, "'n_group'"),
        ("afmoe", {**EXPERTS, "route_scale": 1e9}, "scaled by 1e.09"),
        ("apertus", {"hidden_act": "xielu"}, "no tensor 'model.layers.0.mlp.act_fn.alpha_p'"),
        ("arcee", {}, "'hidden_act' .* supported: relu2"),
        ("bailing_moe", {}, "no tensor 'word_embeddings.weight'"),
        ("bailing_moe", {"multi_gate": True}, "'multi_gate'"),
        ("bailing_moe_v2", {"score_function": "softmax"}, "'score_function' .* supported: sigmoid"),
        ("bailing_moe_v2", {"use_bias": True}, "'use_bias'"),
        ("bitnet", {"hidden_act": "gelu"}, "'hidden_act' .* supported: relu2, silu"),
        ("bitnet", {"hidden_act": "silu", "weight_bits": 1}, "'weight_bits'"),
        ("bitnet", {"hidden_act": "relu2", "attention_bias": True}, "'attention_bias'"),
        ("cohere", {"use_qk_norm": True}, "'use_qk_norm'"),
        ("cohere", {"logit_scale": 1e9}, "scale of 1e.09"),
        ("cohere2", {"attention_bias": True}, "'attention_bias'"),
        ("cohere2", {"sliding_window": 0}, "'sliding_window' .* positive integer"),
        ("cohere2_moe", {"expert_selection_fn": "relu"}, "'expert_selection_fn'"),
        ("cohere2_moe", {**EXPERTS, "shared_expert_combination_strategy": "max"}, "_combination_strategy'"),
        ("deepseek", {"scoring_func": "sigmoid"}, "'scoring_func' .* supported: softmax"),
        ("dots1", {"layer_types": ["sliding_attention"] * 2}, "'layer_types'"),
        ("dots1", {"max_window_layers": 1, "sliding_window": 8}, "'sliding_window'"),
        ("dots1", {**EXPERTS, "n_routed_experts": 4, "n_group": 3}, "4 experts cannot be chosen so"),
        ("ernie4_5_moe", {"use_bias": True}, "'use_bias'"),
        ("exaone_moe", {**EXPERTS, "routed_scaling_factor": 1e9}, "scaled by 1e.09"),
        ("exaone4", {"sliding_window": "4"}, "'sliding_window' .* positive integer"),
        ("gemma", {"hidden_act": "relu"}, "'hidden_act'"),
        ("glm4_moe", {**EXPERTS, "n_group": 8}, "'n_group'"),
        ("glm4_moe", {**EXPERTS, "n_routed_experts": 4, "routed_scaling_factor": 1e9}, "scaled by 1e.09"),
        ("gpt_neox", {"attention_bias": False}, "'attention_bias'"),
        ("helium", {"mlp_bias": True}, "'mlp_bias'"),
        ("hunyuan_v1_moe", {**EXPERTS, "num_experts": [4, 8]}, "'num_experts' .* positive integer"),
        ("internlm3", {"qkv_bias": True}, "'qkv_bias'"),
        ("maincoder", {}, "the engine runs its GGUF files"),
        ("mellum", {**EXPERTS, "norm_topk_prob": False}, "'norm_topk_prob'"),
        ("mellum", {**EXPERTS, "layer_types": ["full"]}, "'layer_types' .* no list of 2 times"),
        ("mellum", EXPERTS, "no tensor 'model.layers.0.mlp.gate.weight'"),
        ("minicpm", {}, "the engine runs its GGUF files"),
        ("minicpm3", {"qk_rope_head_dim": 16}, "'qk_rope_head_dim' .* multiple of 32"),
        ("minicpm3", {**LATENT, "scale_emb": 1e9}, "scale of 1e.09"),
        ("minimax_m2", {"rotary_dim": "64"}, "'rotary_dim' .* positive integer"),
        ("ministral3", {"rope_parameters": GROWING}, "grow by 9"),
        ("mistral3", {"text_config": {"model_type": "bert"}}, "text model of .* is a 'bert'"),
        ("mistral3", {"text_config": 3}, "'text_config' .* no object"),
        ("nemotron", {"hidden_act": "relu2", "mlp_bias": True}, "'mlp_bias'"),
        ("olmo", {"clip_qkv": -8.0}, "'clip_qkv' .* positive number"),
        ("phi", {"qk_layernorm": True}, "'qk_layernorm'"),
        ("phi", {}, "'hidden_act' .* supported: gelu_new"),
        ("phimoe", {**PHI, "num_experts_per_tok": 3}, "uses 3 experts for a token"),
        ("phimoe", {**PHI, "router_jitter_noise": 2.0}, "with jitter of 2"),
        ("phimoe", {**PHI, "rope_scaling": {"short_mscale": 1.1}}, "'short_mscale' .* 1.1 and 1"),
        ("smallthinker", {}, "the engine runs its GGUF files"),
        ("qwen2_moe", EXPERTS, "no tensor 'model.layers.0.mlp.gate.weight'"),
        ("sarvam_moe", {}, "no tensor 'word_embeddings.weight'"),
        ("seed_oss", {"attention_out_bias": True}, "'attention_out_bias'"),
        ("stablelm", {"qk_layernorm": True}, "'qk_layernorm'"),
        ("starcoder2", {"use_bias": False}, "'use_bias'"),
        ("vaultgemma", {"hidden_activation": "silu"}, "'hidden_activation'"),
    ],
)
def test_what_is_not_run_is_named(tmp_path: Path, family: str, config: dict[str, Any], message: str) -> None:
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32")
    directory = write_directory(tmp_path / "d", gguf, **{"model_type": family, **config})
    with pytest.raises(CheckpointError, match=message):
        describe(open_checkpoint(directory))


def test_a_text_part_is_the_model_alone(tmp_path: Path, make_driver) -> None:
    """Whatever stands in the directory beside it."""
    gguf = write_tiny_llama(tmp_path / "m.gguf", kind="F32")
    alone = write_directory(tmp_path / "alone", gguf, model_type="mistral")
    part = write_directory(tmp_path / "part", gguf)
    text = json.loads((alone / "config.json").read_text())
    whole = {"model_type": "mistral3", "text_config": text, "vision_config": {"model_type": "pixtral"}}
    (part / "config.json").write_text(json.dumps(whole))
    ids = np.random.default_rng(2).integers(0, SMALLEST_VOCAB, 40).tolist()
    ours, expected = (make_driver(open_checkpoint(path)).logits(ids) for path in (part, alone))
    np.testing.assert_array_equal(ours, expected)
    assert np.ptp(expected) > 5
