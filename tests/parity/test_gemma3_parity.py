"""Gemma 3 against `transformers` on the same weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import torch
import transformers
from agreement import Agreement
from numpy_reference import decode
from runner_driver import RunnerDriver
from tiny_models import SMALLEST_VOCAB, write_tiny_gemma3
from transformers_oracle import LAYER_PARTS

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, Tensor, build_tokenizer, open_checkpoint
from llm_serving.engine.protocol import EngineOptions

pytestmark = pytest.mark.parity

PARTS = {
    **LAYER_PARTS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def oracle(checkpoint: Checkpoint) -> transformers.Gemma3ForCausalLM:
    layers = checkpoint.hyper("block_count")
    head_dim = checkpoint.hyper("attention.key_length")
    thetas = {"sliding_attention": 10000.0, "full_attention": checkpoint.hyper("rope.freq_base")}
    config = transformers.Gemma3TextConfig(
        vocab_size=checkpoint.tensors["token_embd.weight"].shape[0],
        hidden_size=checkpoint.hyper("embedding_length"),
        intermediate_size=checkpoint.hyper("feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=checkpoint.hyper("attention.head_count"),
        num_key_value_heads=checkpoint.hyper("attention.head_count_kv"),
        head_dim=head_dim,
        query_pre_attn_scalar=head_dim,
        rms_norm_eps=checkpoint.hyper("attention.layer_norm_rms_epsilon"),
        max_position_embeddings=checkpoint.hyper("context_length"),
        sliding_window=checkpoint.hyper("attention.sliding_window"),
        layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)],
        rope_parameters={k: {"rope_type": "default", "rope_theta": v} for k, v in thetas.items()},
        hidden_activation="gelu_pytorch_tanh",
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = transformers.Gemma3ForCausalLM(config).eval().float()
    missing, unexpected = model.load_state_dict(dict(map(named, checkpoint.tensors.items())), strict=False)
    assert (set(missing) - {"lm_head.weight"}, unexpected) == (set(), [])
    return model


def named(item: tuple[str, Tensor]) -> tuple[str, torch.Tensor]:
    """GGUF files hold norms' weights with one added."""
    name, tensor = item
    stem = name.removesuffix(".weight")
    values = np.array(decode(tensor))
    if "norm" in stem:
        values = values - 1
    if stem in TOP:
        return f"{TOP[stem]}.weight", torch.from_numpy(values)
    _, index, part = stem.split(".")
    return f"model.layers.{index}.{PARTS[part]}.weight", torch.from_numpy(values)


@pytest.mark.parametrize(("window", "heads"), [(32, {}), (300, {"kv_heads": 1, "heads": 3, "hidden": 96})])
def test_logits(tmp_path: Path, window: int, heads: dict[str, int]) -> None:
    shape = {"layers": 7, "head_dim": 32, "context": 1024, "rope_base": 1e6, "kind": "F32", **heads}
    checkpoint = open_checkpoint(write_tiny_gemma3(tmp_path / "m.gguf", window, **shape))
    ids = np.random.default_rng(0).integers(0, SMALLEST_VOCAB, 500)
    with torch.inference_mode():
        expected = oracle(checkpoint)(torch.tensor([ids.tolist()]), use_cache=False).logits[0].numpy()
    runner = build_runner(checkpoint, EngineOptions(quantization="f32", threads=1, max_concurrency=1))
    ours = RunnerDriver(runner).logits(ids)
    runner.close()
    assert np.abs(ours - expected).max() < 4e-3 * np.ptp(expected)  # keys and values are integers
    assert np.ptp(expected) > 5


def test_the_real_model(capsys: pytest.CaptureFixture[str]) -> None:
    path = os.environ.get("LLM_SERVING_TEST_GEMMA")
    if path is None:
        pytest.skip("no gemma model: set LLM_SERVING_TEST_GEMMA to the path of a GGUF file")
    checkpoint = open_checkpoint(path)
    tokenizer = build_tokenizer(checkpoint)
    text = Path(__file__).with_name("english.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode_prompt(text)[:1024]
    with torch.inference_mode():
        theirs = oracle(checkpoint)(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    runner = build_runner(checkpoint, EngineOptions(context_length=1024, max_concurrency=1))
    agreement = Agreement()
    agreement.add(RunnerDriver(runner).logits(ids), theirs, ids)
    runner.close()
    with capsys.disabled():
        print(f"\ngemma: native engine against transformers: {agreement}")
    assert ids[0] == tokenizer.bos_id
    assert agreement.top1 >= 0.97
    assert agreement.mean_kl <= 0.01
