"""Gemma 4 against `transformers`: a random model of each kind, saved and opened as anybody's would be."""

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
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "global_head_dim": 64,
    "max_position_embeddings": 512,
    "sliding_window": 24,
    "final_logit_softcapping": 9.0,
    "initializer_range": 0.2,
}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
KINDS: dict[str, dict[str, Any]] = {
    "E2B": {
        "num_key_value_heads": 1,
        "layer_types": [LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL],
        "num_kv_shared_layers": 3,
        "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 32,
    },
    "E4B": {
        "layer_types": [LOCAL, GLOBAL, LOCAL, GLOBAL],
        "num_kv_shared_layers": 1,
        "hidden_size_per_layer_input": 64,
    },
    "31B": {
        "layer_types": [LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL],
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    },
    "26B": {
        "layer_types": [LOCAL, LOCAL, GLOBAL],
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "enable_moe_block": True,
        "num_experts": 8,
        "top_k_experts": 3,
        "moe_intermediate_size": 64,
    },
}


def config_of(kind: str, config_class: type, **more: Any) -> Any:
    shape = {**SHAPE, **KINDS[kind], **more}
    return config_class(**shape, num_hidden_layers=len(shape["layer_types"]), attn_implementation="eager")


def randomized(model: Any) -> Any:
    """With norms, scales and layers' scalars that are not what they would be if they were not there."""
    for name, values in model.named_parameters():
        if "norm" in name or name.endswith("scale"):
            values.data += 0.2 * torch.randn_like(values)
        if (
            "q_norm" in name
        ):  # scores are scaled by nothing else; sharp ones make of small differences large ones
            values.data *= 0.3
    for name, values in model.named_buffers():
        if name.endswith("layer_scalar"):
            values.data = 0.6 + 0.3 * torch.rand_like(values)
    return model.eval().float()


def assert_same_logits(model: Any, checkpoint: Checkpoint) -> None:
    ids = np.random.default_rng(1).integers(0, VOCAB, 90).tolist()
    with torch.inference_mode():
        # Asked for hidden states, it computes all rows; it fails to leave some out where there are no inputs.
        asked = {"use_cache": False, "output_hidden_states": True}
        expected = model(torch.tensor([ids]), **asked).logits[0].numpy()
    runner = build_runner(checkpoint, EngineOptions(quantization="f32", threads=2))
    driver = RunnerDriver(runner)
    logits = driver.step([(DrivenSequence(), ids)])
    last = driver.step([(DrivenSequence(), ids)], rows=[len(ids) - 1])
    runner.close()
    assert np.abs(expected).max() > 1, "a model that says something"
    np.testing.assert_allclose(logits, expected, atol=3e-3 * np.abs(expected).max())
    assert (logits.argmax(1) == expected.argmax(1)).mean() > 0.98
    np.testing.assert_array_equal(last[0], logits[-1])


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *((kind, {}) for kind in KINDS),
        ("E2B", {"hidden_size_per_layer_input": 0, "final_logit_softcapping": None}),
        ("E2B", {"tie_word_embeddings": False, "num_kv_shared_layers": 0}),
        ("31B", {"attention_k_eq_v": False}),
        ("31B", {"rope_parameters": {
            LOCAL: {"rope_type": "default", "rope_theta": 5e3},
            GLOBAL: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1e5},
        }}),
    ],
)  # fmt: skip
def test_logits(kind: str, more: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = config_of(kind, transformers.Gemma4TextConfig, **more)
    model = randomized(transformers.Gemma4ForCausalLM(config))
    model.save_pretrained(tmp_path)
    assert_same_logits(model, open_checkpoint(tmp_path))


def test_the_text_model_of_one_that_sees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    text = config_of("E2B", transformers.Gemma4TextConfig).to_dict()
    config = transformers.Gemma4Config(text_config=text, vision_config=vision, attn_implementation="eager")
    model = randomized(transformers.Gemma4ForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    assert_same_logits(model, open_checkpoint(tmp_path))


def test_the_unified_text_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = config_of("31B", transformers.Gemma4UnifiedTextConfig)
    model = randomized(transformers.Gemma4UnifiedForCausalLM(config))
    model.save_pretrained(tmp_path)
    assert_same_logits(model, open_checkpoint(tmp_path))
