"""Low-rank adapters against `transformers` and `peft`: directories that the library wrote itself."""

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
from llm_serving.checkpoints import open_checkpoint
from llm_serving.engine.protocol import EngineOptions

peft = pytest.importorskip("peft", reason="the parity suite needs peft; run it with: make parity")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft's own
]

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
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
SPLIT_GATES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]
MODELS: dict[str, tuple[type, type, list[str], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, DENSE, {}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, DENSE, {}),
    "gemma3": (
        transformers.Gemma3TextConfig,
        transformers.Gemma3ForCausalLM,
        DENSE,
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24, "num_hidden_layers": 6},
    ),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM, FUSED, {}),
    "granite": (
        transformers.GraniteConfig,
        transformers.GraniteForCausalLM,
        DENSE,
        {"attention_multiplier": 0.15, "residual_multiplier": 0.22, "logits_scaling": 2.0},
    ),
    "ernie4_5": (transformers.Ernie4_5Config, transformers.Ernie4_5ForCausalLM, DENSE, {"head_dim": 32}),
    "glm4": (transformers.Glm4Config, transformers.Glm4ForCausalLM, SPLIT_GATES, {"head_dim": 32}),
    "qwen3_moe": (
        transformers.Qwen3MoeConfig,
        transformers.Qwen3MoeForCausalLM,
        DENSE[:4],
        {"moe_intermediate_size": 64, "num_experts": 12, "num_experts_per_tok": 3, "head_dim": 32},
    ),
}
MODELS["falcon_h1"] = (  # whose multipliers are in packed matrices, and an adapter's need them, too
    transformers.FalconH1Config,
    transformers.FalconH1ForCausalLM,
    DENSE[:4],
    {
        "num_hidden_layers": 2,
        "mamba_d_ssm": 128,
        "mamba_n_heads": 4,
        "mamba_d_head": 32,
        "mamba_d_state": 16,
        "key_multiplier": 0.7,
        "attention_in_multiplier": 1.3,
        "attention_out_multiplier": 1.8,
        "lm_head_multiplier": 0.6,
    },
)
IDS = np.random.default_rng(1).integers(0, VOCAB, 90).tolist()


def model_of(name: str, directory: Path) -> Any:
    config_class, model_class, _, shape = MODELS[name]
    torch.manual_seed(0)
    config = config_class(**{**SHAPE, **shape}, attn_implementation="eager")
    model = model_class(config).eval().float()
    model.save_pretrained(directory)
    return model


def adapted(model: Any, directory: Path, seed: int, **config: Any) -> Any:
    """The model with a random adapter, which `peft` has saved."""
    torch.manual_seed(seed)
    own = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
    for name, values in own.named_parameters():
        if "lora_B" in name:  # which begins as zero
            values.data = 0.2 * torch.randn_like(values)
    own.eval().save_pretrained(directory)
    return own


def assert_like(logits: np.ndarray, model: Any) -> np.ndarray:
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].numpy()
    size = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, atol=3e-3 * size)
    assert (logits.argmax(1) == expected.argmax(1)).mean() > 0.98
    return expected


def logits_of(model: Path, *adapters: Path) -> list[np.ndarray]:
    """Of the base, and with each of these, all in one step."""
    options = EngineOptions(quantization="f32", threads=2, adapters=adapters)
    runner = build_runner(open_checkpoint(model), options)
    try:
        batch = [(DrivenSequence(adapter=adapter), IDS) for adapter in range(-1, len(adapters))]
        return np.split(RunnerDriver(runner).step(batch), len(batch))
    finally:
        runner.close()


@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str, tmp_path: Path) -> None:
    targets = MODELS[name][2]
    model = model_of(name, tmp_path / "model")
    own = adapted(model, tmp_path / "adapter", 1, r=8, lora_alpha=12, target_modules=targets)
    base, with_it = logits_of(tmp_path / "model", tmp_path / "adapter")
    expected = assert_like(with_it, own)
    with own.disable_adapter():
        plain = assert_like(base, own)
    assert np.abs(expected - plain).max() > 0.2 * np.abs(plain).max(), "an adapter that is felt"


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True, "target_modules": DENSE},
        {
            "target_modules": DENSE,
            "rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 11},
            "alpha_pattern": {"^model.layers.[01].self_attn.k_proj": 40, "up_proj": 2},
        },
        {"target_modules": "all-linear"},
        {"target_modules": r".*layers\.[02]\.self_attn\.(q|v)_proj"},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
        {"target_modules": ["o_proj"], "init_lora_weights": "gaussian"},
    ],
)
def test_configurations(config: dict[str, Any], tmp_path: Path) -> None:
    model = model_of("llama", tmp_path / "model")
    own = adapted(model, tmp_path / "adapter", 2, r=4, lora_alpha=10, **config)
    _, with_it = logits_of(tmp_path / "model", tmp_path / "adapter")
    assert_like(with_it, own)


def test_several_in_one_batch(tmp_path: Path) -> None:
    paths, models = [], []
    for seed in (1, 2, 3):
        model = model_of("llama", tmp_path / "model")
        paths.append(tmp_path / str(seed))
        models.append(adapted(model, paths[-1], seed, r=2 * seed, lora_alpha=6, target_modules=DENSE))
    _, *with_them = logits_of(tmp_path / "model", *paths)
    for logits, own in zip(with_them, models, strict=True):
        assert_like(logits, own)
