"""Families of decoders against `transformers`: random models, saved and opened as anybody's would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import torch
import transformers
from runner_driver import DrivenSequence, RunnerDriver

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions

pytestmark = pytest.mark.parity

VOCAB = 384
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # answers that depend on the text
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,  # as in Phi 4 mini: 18 of 24 dimensions
    "short_factor": [1.0 + i / 16 for i in range(9)],
    "long_factor": [1.5 + i for i in range(9)],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "qwen3_moe": (
        transformers.Qwen3MoeConfig,
        transformers.Qwen3MoeForCausalLM,
        {"moe_intermediate_size": 64, "num_experts": 12, "num_experts_per_tok": 3, "head_dim": 32},
    ),
    "mixtral": (
        transformers.MixtralConfig,
        transformers.MixtralForCausalLM,
        {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "smollm3": (
        transformers.SmolLM3Config,
        transformers.SmolLM3ForCausalLM,
        {"num_hidden_layers": 5, "pad_token_id": 0},
    ),
    "granite": (
        transformers.GraniteConfig,
        transformers.GraniteForCausalLM,
        {
            "embedding_multiplier": 6.0,
            "attention_multiplier": 0.15,
            "residual_multiplier": 0.22,
            "logits_scaling": 2.0,
        },
    ),
    "granitemoe": (
        transformers.GraniteMoeConfig,
        transformers.GraniteMoeForCausalLM,
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
        },
    ),
    "olmoe": (
        transformers.OlmoeConfig,
        transformers.OlmoeForCausalLM,
        {"num_experts": 8, "num_experts_per_tok": 3},
    ),
    "ernie4_5": (transformers.Ernie4_5Config, transformers.Ernie4_5ForCausalLM, {"head_dim": 32}),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM, {"pad_token_id": 0}),
    "gemma2": (
        transformers.Gemma2Config,
        transformers.Gemma2ForCausalLM,
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "sliding_window": 24,
            "attn_logit_softcapping": 4.0,
            "final_logit_softcapping": 9.0,
        },
    ),
    "hunyuan": (
        transformers.HunYuanDenseV1Config,
        transformers.HunYuanDenseV1ForCausalLM,
        {"head_dim": 32, "pad_token_id": 0},
    ),
    "glm4": (transformers.Glm4Config, transformers.Glm4ForCausalLM, {"head_dim": 32, "pad_token_id": 0}),
    "gpt_oss": (
        transformers.GptOssConfig,
        transformers.GptOssForCausalLM,
        {
            "head_dim": 32,
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "sliding_window": 24,
            "initializer_range": 0.12,  # with more, experts make of small differences large ones
            "rope_parameters": {**YARN, "rope_theta": 150000.0, "truncate": False},
        },
    ),
    "lfm2": (
        transformers.Lfm2Config,
        transformers.Lfm2ForCausalLM,
        {
            "num_hidden_layers": 5,
            "layer_types": ["conv", "conv", "full_attention", "conv", "full_attention"],
            "block_multiple_of": 32,
        },
    ),
    "qwen3_5": (
        transformers.Qwen3_5TextConfig,
        transformers.Qwen3_5ForCausalLM,
        {
            "num_hidden_layers": 5,
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 6,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 64,
            "initializer_range": 0.1,  # a state adds up small differences
        },
    ),
    "qwen3_5_moe": (
        transformers.Qwen3_5MoeTextConfig,
        transformers.Qwen3_5MoeForCausalLM,
        {
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "num_hidden_layers": 4,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 96,
            "initializer_range": 0.1,
        },
    ),
    "qwen3_next": (
        transformers.Qwen3NextConfig,
        transformers.Qwen3NextForCausalLM,
        {
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 6,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 64,
            "num_hidden_layers": 4,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 96,
            "initializer_range": 0.1,
        },
    ),
    "olmo2": (transformers.Olmo2Config, transformers.Olmo2ForCausalLM, {}),
    "olmo3": (
        transformers.Olmo3Config,
        transformers.Olmo3ForCausalLM,
        {"num_hidden_layers": 5, "sliding_window": 24},
    ),
}


def saved(directory: Path, name: str, **more: Any) -> tuple[Any, Checkpoint]:
    config_class, model_class, shape = MODELS[name]
    torch.manual_seed(0)
    model = (
        model_class(config_class(**{**SHAPE, **shape, **more}, attn_implementation="eager")).eval().float()
    )
    for part, values in model.named_parameters():
        if part.endswith("sinks"):
            values.data = 2 * torch.randn_like(values)  # as large as scores
        if "norm" in part or part.endswith("bias"):  # which begin as if they were not there
            values.data += 0.2 * torch.randn_like(values)
    model.save_pretrained(directory)
    return model, open_checkpoint(directory)


def logits_of(checkpoint: Checkpoint, ids: list[int], quantization: str = "f32") -> np.ndarray:
    runner = build_runner(checkpoint, EngineOptions(quantization=quantization, threads=2))
    try:
        return RunnerDriver(runner).step([(DrivenSequence(), ids)])
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("qwen3_moe", {"norm_topk_prob": True}),
        ("qwen3_moe", {"norm_topk_prob": False, "tie_word_embeddings": True}),
        ("mixtral", {}),
        ("mixtral", {"sliding_window": 24}),
        ("smollm3", {}),
        ("smollm3", {"no_rope_layers": [0, 1, 1, 0, 1]}),
        ("granite", {}),
        ("phi3", {}),
        ("phi3", {"sliding_window": 24}),
        ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64}),
        ("qwen3_5", {}),
        ("qwen3_5", {"tie_word_embeddings": True, "linear_num_value_heads": 2}),
        ("qwen3_5", {"layer_types": [*["linear_attention", "full_attention"] * 2, "full_attention"]}),
        ("qwen3_5_moe", {}),
        ("qwen3_next", {}),
        ("qwen3_next", {"tie_word_embeddings": True, "linear_num_key_heads": 6}),
        ("olmo2", {}),
        ("olmo3", {}),
        ("glm4", {}),
        ("glm4", {"attention_bias": False, "partial_rotary_factor": 0.25}),
        ("hunyuan", {}),
        ("hunyuan", {"rope_scaling": {"type": "dynamic", "alpha": 50.0, "factor": 1.0}}),
        ("olmo3", {"rope_scaling": YARN}),
        ("gemma2", {}),
        ("gemma2", {"sliding_window": 60, "layer_types": ["full_attention"] + ["sliding_attention"] * 2}),
        ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("gpt_oss", {}),
        ("gpt_oss", {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
        ("gpt_oss", {"attention_bias": False, "tie_word_embeddings": True}),
        ("gpt_oss", {"swiglu_limit": 0.5, "swiglu_alpha": 3.0}),
        ("olmoe", {}),
        ("granitemoe", {}),
        ("lfm2", {}),
        ("lfm2", {"conv_L_cache": 5, "block_auto_adjust_ff_dim": False, "tie_word_embeddings": False}),
        ("ernie4_5", {}),
    ],
)
def test_logits(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    model, checkpoint = saved(tmp_path, name, **more)
    ids = np.random.default_rng(1).integers(0, VOCAB, 90).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    logits = logits_of(checkpoint, ids)
    assert np.abs(expected).max() > 1, "a model that says something"
    np.testing.assert_allclose(logits, expected, atol=3e-3 * np.abs(expected).max())
    assert (logits.argmax(1) == expected.argmax(1)).mean() > 0.98
