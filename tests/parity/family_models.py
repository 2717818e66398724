"""Random models of `transformers`, small but of real structure, saved as anybody's would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from runner_driver import DrivenSequence, RunnerDriver

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint
from llm_serving.engine.protocol import EngineOptions

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


def save_model(directory: Path, model_class: type, config: Any) -> Any:
    """The model, in the directory. Nothing in it is as it begins to be trained."""
    torch.manual_seed(0)
    model = model_class(config).eval().float()
    for part, values in model.named_parameters():
        if part.endswith("router.gate.weight"):  # which may begin as zeros
            values.data = config.initializer_range * torch.randn_like(values)
        if part.endswith("sinks"):
            values.data = 2 * torch.randn_like(values)  # as large as scores
        if "norm" in part or ".ln_" in part or part.endswith("bias"):  # which begin as if they were not there
            values.data += 0.2 * torch.randn_like(values)
    for part, values in model.named_buffers():
        if part.endswith(("correction_bias", "expert_bias")):
            values.data += 0.2 * torch.randn_like(values)
    model.save_pretrained(directory)
    return model


def random_ids(count: int = 90) -> list[int]:
    ids: list[int] = np.random.default_rng(1).integers(0, VOCAB, count).tolist()
    return ids


def their_logits(model: Any, ids: list[int]) -> np.ndarray:
    """float32 [tokens, vocabulary], by `transformers`."""
    with torch.inference_mode():
        logits: np.ndarray = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
    return logits


def our_logits(checkpoint: Checkpoint, ids: list[int], quantization: str = "f32") -> np.ndarray:
    runner = build_runner(checkpoint, EngineOptions(quantization=quantization, threads=2))
    try:
        return RunnerDriver(runner).step([(DrivenSequence(), ids)])
    finally:
        runner.close()


def assert_agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(theirs).max() > 1, "a model that says something"
    np.testing.assert_allclose(ours, theirs, atol=3e-3 * np.abs(theirs).max())
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.98
