"""Directories that transformers wrote, on the native engine: the same logits, ids and answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch; run it with: make parity")

import httpx
import torch
import transformers
from fake_server import running_server
from tiny_directories import CHATML, TEXT, VOCAB_SIZE

from llm_serving.api.app import create_app
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.config import Settings
from llm_serving.engine.protocol import EngineOptions, ModelRunner, Step

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama 3": ("llama", {"rope_parameters": LLAMA_3}),
    "mistral": ("mistral", {"sliding_window": 16}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3, yarn": ("qwen3", {"rope_parameters": YARN}),
    "gemma 3": (
        "gemma3_text",
        {
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 32,
        },
    ),
}


@pytest.fixture(params=MODELS)
def directory(request: pytest.FixtureRequest, directory_of: Callable[..., Path]) -> Path:
    family, config = MODELS[request.param]
    return directory_of(family, chat_template=CHATML, **SHAPE, **config)


def logits_of(runner: ModelRunner, ids: np.ndarray) -> np.ndarray:
    """float32 [n, vocab], all in one step."""
    n, block = len(ids), runner.limits.block_size
    every = np.arange(n, dtype=np.int32)
    tables = np.arange(-(-n // block), dtype=np.int32)[None]
    return runner.run(Step(ids.astype(np.int32), every, np.array([0, n], np.int32), tables, every)).copy()


def test_logits(directory: Path) -> None:
    """Weights are f32 here; keys and values are integers, which is what is left of a difference."""
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, 48)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([ids.tolist()])).logits[0].numpy()
    runner = build_runner(open_checkpoint(directory), EngineOptions(quantization="f32", threads=1))
    try:
        ours = logits_of(runner, ids)
    finally:
        runner.close()
    assert np.abs(ours - expected).max() < 4e-3 * np.ptp(expected)


def test_ids(directory: Path) -> None:
    ours = build_tokenizer(open_checkpoint(directory))
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    for text in (TEXT, "", " a  b\n"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert ours.chat_template == theirs.chat_template
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.eos_ids == {theirs.eos_token_id}


def test_answers(directory: Path) -> None:
    """Through the server, with nothing said about engines."""
    how = {"quantization": "f32", "threads": 1, "embedding_model": "", "drain_s": 0, "cache_dir": directory}
    settings = Settings(model_name=str(directory), **how)
    messages = [{"role": "user", "content": "Hello! Talk about the News."}]
    with running_server(create_app(settings)) as url:
        (model,) = httpx.get(f"{url}/models").json()["data"]
        body = {"messages": messages, "temperature": 0, "max_tokens": 20}
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60).json()
    assert model["engine"] == "native"
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    reference = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    out = reference.generate(**inputs, max_new_tokens=20, do_sample=False)
    expected = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer["choices"][0]["message"]["content"] == expected
