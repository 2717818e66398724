"""Mixtures that `transformers` does not have, or that differ from others by names: numbers, and bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_reference import NumpyModel, causal_attention, rotate
from runner_driver import DrivenSequence
from test_llama_by_other_names import renamed
from tiny_decoder_directories import write_directory
from tiny_encoders import write_json, write_safetensors
from tiny_models import SMALLEST_VOCAB, write_tiny_mixtral

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, Tensor, dequantize, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops

IDS = np.random.default_rng(4).integers(0, SMALLEST_VOCAB, 60).tolist()
WINDOW = 20
DEEPSEEK = {"block_sparse_moe": "mlp", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
LING = {**DEEPSEEK, "embed_tokens": "word_embeddings", "self_attn.o_proj": "attention.dense"}


def tiny(path: Path, **shape: Any) -> Checkpoint:
    return open_checkpoint(write_tiny_mixtral(path / "m.gguf", **{"kind": "F32", "used": 2, **shape}))


def small_thinker(path: Path, window: int = WINDOW, **shape: Any) -> Checkpoint:
    """Rows of queries and keys stand as halves there, which for random ones is the same."""
    keys = {"expert_gating_func": 2, "attention.sliding_window": window}
    return renamed(tiny(path, layers=5, **shape), "smallthinker", **keys)


def command_a(path: Path, **shape: Any) -> Checkpoint:
    """Experts beside attention."""
    keys = {"attention.sliding_window": WINDOW, "logit_scale": 1.0}
    return renamed(tiny(path, layers=5, **shape), "cohere2moe", **keys)


class SmallThinker(NumpyModel):
    """float32; windows in three of four layers, the first of which is without and does not rotate."""

    def __init__(self, checkpoint: Checkpoint, window: int) -> None:
        keys = {key.replace("smallthinker.", "qwen2."): value for key, value in checkpoint.metadata.items()}
        own = replace(checkpoint, architecture="qwen2", metadata=keys)
        super().__init__(own, quantize_activations=False)
        self.window = window

    def logits(self, token_ids: np.ndarray | list[int]) -> np.ndarray:
        angles = np.arange(len(token_ids), dtype=np.float64)[:, None] * self.frequencies
        x = self.weights["token_embd.weight"][np.asarray(token_ids)]
        for i in range(self.layers):
            is_global = self.window > 0 and i % 4 == 0
            scores = 1 / (1 + np.exp(-x @ self.weights[f"blk.{i}.ffn_gate_inp.weight"].T))
            turns = 0 * angles if is_global else angles
            x = x + self._attention(self.norm(x, f"blk.{i}.attn_norm"), i, turns, is_global)
            x = x + self._experts(self.norm(x, f"blk.{i}.ffn_norm"), i, scores)
        return self.linear(self.norm(x, "output_norm"), "token_embd")

    def _attention(self, x: np.ndarray, i: int, angles: np.ndarray, is_global: bool) -> np.ndarray:
        q, k, v = (self.linear(x, f"blk.{i}.attn_{part}") for part in "qkv")
        q, k, v = (part.reshape(len(x), -1, q.shape[1] // self.heads) for part in (q, k, v))
        q, k = (rotate(part, np.cos(angles), np.sin(angles), interleaved=False) for part in (q, k))
        window = 0 if is_global else self.window
        return self.linear(causal_attention(q, k, v, window=window), f"blk.{i}.attn_output")

    def _experts(self, x: np.ndarray, i: int, scores: np.ndarray) -> np.ndarray:
        gate, up, down = (self.weights[f"blk.{i}.ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
        chosen = np.argsort(-scores, axis=1)[:, :2]
        out = np.zeros_like(x)
        for t, own in enumerate(chosen):
            weights = scores[t, own] / scores[t, own].sum()
            for weight, e in zip(weights, own, strict=True):
                out[t] += weight * (down[e] @ (np.maximum(gate[e] @ x[t], 0) * (up[e] @ x[t])))
        return out


@pytest.mark.parametrize("window", [0, WINDOW])
def test_small_thinker(window: int, tmp_path: Path, make_driver) -> None:
    checkpoint = small_thinker(tmp_path, window)
    expected = SmallThinker(checkpoint, window).logits(IDS)
    ours = make_driver(checkpoint, quantization="f32").logits(IDS)
    np.testing.assert_allclose(ours, expected, atol=2e-3 * np.abs(expected).max())
    without = make_driver(small_thinker(tmp_path, 0), quantization="f32").logits(IDS)
    assert (np.abs(ours - without).max() > 0.1) == bool(window)


@pytest.mark.parametrize(("made", "kind"), [(small_thinker, "Q4_1"), (command_a, "Q8_0")])
def test_same_bits_however_a_text_is_cut(made: Any, kind: str, tmp_path: Path, make_driver) -> None:
    """And behind a prefix, and in company."""
    driver = make_driver(made(tmp_path, kind=kind), threads=2)
    expected = driver.logits(IDS)
    for chunk in (1, 7, 16):
        np.testing.assert_array_equal(driver.logits(IDS, chunk), expected)
    first, second = DrivenSequence(), DrivenSequence()
    both = driver.step([(second, IDS[5:30]), (first, IDS[:48])])
    np.testing.assert_array_equal(both[25:], expected[:48])
    third = DrivenSequence(num_tokens=32, blocks=first.blocks[:2])
    np.testing.assert_array_equal(driver.step([(third, IDS[32:])]), expected[32:])


@pytest.mark.parametrize("quantization", ["auto", "f32"])
@pytest.mark.parametrize("family", ["deepseek", "bailingmoe"])
def test_files_of_the_first_ones(family: str, quantization: str, tmp_path: Path, make_driver) -> None:
    """With normed weights of experts and none for all tokens they are Mixtral, without the former not."""
    mixtral = tiny(tmp_path)
    expected = make_driver(mixtral, quantization=quantization).logits(IDS)
    same, other = (renamed(mixtral, family, expert_weights_norm=value) for value in (True, False))
    np.testing.assert_array_equal(make_driver(same, quantization=quantization).logits(IDS), expected)
    assert np.abs(make_driver(other, quantization=quantization).logits(IDS) - expected).max() > 0.1


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (DEEPSEEK, {"model_type": "deepseek", "n_routed_experts": 4}),
        (LING, {"model_type": "bailing_moe", "num_experts": 4, "norm_head": False}),
    ],
)
def test_directories_of_the_first_ones(
    names: dict[str, str], config: dict[str, Any], tmp_path: Path, make_driver
) -> None:
    """With an expert for all tokens, as files of ERNIE 4.5 have it."""
    mixtral = tiny(tmp_path, tied=False)
    directory = write_directory(tmp_path / "d", tmp_path / "m.gguf")
    rng = np.random.default_rng(3)
    tensors = {name: dequantize(tensor) for name, tensor in open_checkpoint(directory).tensors.items()}
    file = dict(mixtral.tensors)
    hidden, layers = mixtral.hyper("embedding_length"), mixtral.hyper("block_count")
    for i in range(layers):
        for part, shape in (("gate", (64, hidden)), ("up", (64, hidden)), ("down", (hidden, 64))):
            rows = rng.normal(0, 0.2, shape).astype(np.float32)
            tensors[f"model.layers.{i}.mlp.shared_experts.{part}_proj.weight"] = rows
            own = f"blk.{i}.ffn_{part}_shexp.weight"
            file[own] = Tensor(own, "F32", shape, rows.reshape(-1).view(np.uint8))
        if names is LING:
            fused = [tensors.pop(f"model.layers.{i}.self_attn.{part}_proj.weight") for part in "qkv"]
            tensors[f"model.layers.{i}.attention.query_key_value.weight"] = np.concatenate(fused)
    for old, new in names.items():
        tensors = {name.replace(old, new): values for name, values in tensors.items()}
    write_safetensors(directory / "model.safetensors", tensors)
    metadata = dict(open_checkpoint(directory).metadata)
    more = {"moe_intermediate_size": mixtral.hyper("expert_feed_forward_length"), "norm_topk_prob": True}
    write_json(directory / "config.json", {**metadata, **more, **config})
    expected = make_driver(
        renamed(replace(mixtral, tensors=file), "ernie4_5-moe"), quantization="f32"
    ).logits(IDS)
    ours = make_driver(open_checkpoint(directory), quantization="f32").logits(IDS)
    np.testing.assert_array_equal(ours, expected)


def test_what_files_of_phis_mixture_do_not_say(tmp_path: Path) -> None:
    mixtral = tiny(tmp_path)
    vectors = {f"blk.{i}.{part}.bias" for i in range(2) for part in ("attn_norm", "ffn_norm")}
    rows = np.ones(64, np.float32)
    more = {name: Tensor(name, "F32", (64,), rows.view(np.uint8)) for name in (*vectors, "output_norm.bias")}
    factors = np.linspace(1, 2, 8, dtype=np.float32)
    for part in ("long", "short"):
        name = f"rope_factors_{part}.weight"
        more[name] = Tensor(name, "F32", (8,), factors.view(np.uint8))
    phi = renamed(replace(mixtral, tensors={**mixtral.tensors, **more}), "phimoe")
    keys = {"phimoe.rope.scaling.original_context_length": 64, "phimoe.rope.scaling.attn_factor": 1.19}
    plan = describe(replace(phi, metadata={**phi.metadata, **keys}))
    assert (plan.rope.magnitude, plan.rope.near) == (1.243163121016122, 64)
    assert {op.margin for op in plan.operations if isinstance(op, ops.Route)} == {0.02}
    with pytest.raises(CheckpointError, match="uses 3 experts for a token"):
        describe(replace(phi, metadata={**phi.metadata, "phimoe.expert_used_count": 3}))
