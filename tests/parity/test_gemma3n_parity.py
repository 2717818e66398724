"""Gemma 3n against `transformers`: a random model, saved and opened as anybody's would be."""

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

VOCAB, TABLE = 384, 368  # tokens behind the table of the layers' inputs share its first row
LOCAL, GLOBAL = "sliding_attention", "full_attention"
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": TABLE,
    "hidden_size": 96,
    "intermediate_size": [160, 160, 160, 192, 192, 192],
    "num_hidden_layers": 6,
    "layer_types": [LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL],
    "num_kv_shared_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_size_per_layer_input": 32,
    "laurel_rank": 32,
    "activation_sparsity_pattern": [0.95, 0.8, 0.3, 0.0, 0.0, 0.7],
    "max_position_embeddings": 512,
    "sliding_window": 24,
    "final_logit_softcapping": 9.0,
    "initializer_range": 0.2,
}


def config_of(**more: Any) -> Any:
    return transformers.Gemma3nTextConfig(**{**SHAPE, **more}, attn_implementation="eager")


def randomized(model: Any) -> Any:
    """With norms and scales that are not what they would be if they were not there."""
    for name, values in model.named_parameters():
        if "norm" in name or name.endswith("scale"):
            values.data = 1 + 0.2 * torch.randn_like(values)
        if "q_norm" in name:  # sharp scores make of small differences large ones
            values.data *= 0.3
        if "router.weight" in name:  # tanh is bent by what is not small
            values.data *= 50
    return model.eval().float()


def assert_same_logits(model: Any, checkpoint: Checkpoint) -> None:
    ids = np.random.default_rng(1).integers(0, TABLE, 90).tolist()
    ids[17] = ids[80] = VOCAB - 2
    with torch.inference_mode():
        expected = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
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
    "more",
    [
        {},
        {"num_kv_shared_layers": 0, "altup_num_inputs": 3, "altup_correct_scale": False},
        {"tie_word_embeddings": False, "activation_sparsity_pattern": None},
        {"rope_parameters": {
            LOCAL: {"rope_type": "default", "rope_theta": 5e3},
            GLOBAL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
        }},
    ],
)  # fmt: skip
def test_logits(more: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomized(transformers.Gemma3nForCausalLM(config_of(**more)))
    model.save_pretrained(tmp_path)
    assert_same_logits(model, open_checkpoint(tmp_path))
