"""Latent attention with absorbed matrices is what heads with keys and values of their own compute."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latent_reference import LatentReference
from runner_driver import DrivenSequence
from tiny_latent import LATENT, ROTATED, write_tiny_latent
from tiny_models import SMALLEST_VOCAB

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native.core import load_core
from llm_serving.native.ops import KvShape

IDS = np.random.default_rng(1).integers(0, SMALLEST_VOCAB, 300)


def opened(path: Path, **shape: Any) -> Checkpoint:
    return open_checkpoint(write_tiny_latent(path, **shape))


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"scores": "softmax"},
        {"has_query_latent": False, "rope": {}, "groups": 1, "groups_used": 1},
        {"groups": 2, "groups_used": 1, "scores": "softmax", "has_query_latent": False},
    ],
)
def test_against_numpy(shape: dict[str, Any], tmp_path: Path, make_driver) -> None:
    checkpoint = opened(tmp_path / "m.gguf", **shape)
    expected = LatentReference(checkpoint).logits(IDS[:120])
    ours = make_driver(checkpoint, quantization="f32").logits(IDS[:120])
    assert np.ptp(expected) > 3
    np.testing.assert_allclose(ours, expected, atol=1e-3 * np.abs(expected).max())


def test_only_the_latent_is_kept(tmp_path: Path) -> None:
    plan = describe(opened(tmp_path / "m.gguf"))
    assert plan.kv == (KvShape(1, LATENT + ROTATED),) * 3


@pytest.mark.parametrize("quantization", ["f32", "q8", "auto"])
@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
def test_older_files_are_the_same_model(kind: str, quantization: str, tmp_path: Path, make_driver) -> None:
    """Keys and values of heads in one tensor; packed, its columns have to be decoded and packed again."""
    split, whole = (opened(tmp_path / f"{one}.gguf", is_split=one, kind=kind) for one in (True, False))
    ours, expected = (make_driver(one, quantization=quantization).logits(IDS[:60]) for one in (whole, split))
    if kind == "F32":
        np.testing.assert_array_equal(ours, expected)
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    assert error < {"F32": 1e-9, "Q8_0": 0.02, "Q4_0": 0.25}[kind]


@pytest.mark.parametrize("kv_cache", ["q16", "q8"])
@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_same_bits_however_it_is_cut(kind: str, kv_cache: str, tmp_path: Path, make_driver) -> None:
    checkpoint = opened(tmp_path / "m.gguf", kind=kind)
    expected = make_driver(checkpoint, kv_cache=kv_cache, isa="scalar").logits(IDS, chunk=300)
    for isa in load_core().instruction_sets():
        for chunk, threads in ((7, 2), (100, 1)):
            driver = make_driver(checkpoint, kv_cache=kv_cache, isa=isa, threads=threads, seed=chunk)
            np.testing.assert_array_equal(driver.logits(IDS, chunk=chunk), expected)


def test_same_bits_in_company(tmp_path: Path, make_driver) -> None:
    checkpoint = opened(tmp_path / "m.gguf", kind="Q8_0")
    alone = make_driver(checkpoint).logits(IDS[:90])
    driver = make_driver(checkpoint, threads=2, seed=3)
    first, second = DrivenSequence(), DrivenSequence()
    driver.step([(second, IDS[90:140])])
    begin = driver.step([(first, IDS[:70]), (second, IDS[140:145])])[:70]
    rest = [driver.step([(second, [int(i)]), (first, [int(i)])])[1] for i in IDS[70:90]]
    np.testing.assert_array_equal(np.concatenate([begin, rest]), alone)


def with_keys(checkpoint: Checkpoint, keys: dict[str, Any]) -> Checkpoint:
    named = {f"deepseek2.{key}": value for key, value in keys.items()}
    return dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, **named})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.kv_lora_rank", 48, "'deepseek2.attention.kv_lora_rank' .* multiple of 32"),
        ("attention.kv_lora_rank", None, "'deepseek2.attention.kv_lora_rank' .* positive integer"),
        ("attention.kv_lora_rank", 1 << 30, "shape .* By its header"),
        ("attention.head_count", 1 << 30, "shape .* By its header"),
        ("attention.head_count", 2, "shape .* By its header"),
        ("attention.key_length_mla", 32, "'deepseek2.attention.key_length_mla' .* 32 and a multiple of 32"),
        ("attention.value_length_mla", 32, "shape .* By its header"),
        ("rope.dimension_count", 8, "'deepseek2.rope.dimension_count' .* multiple of 32"),
        ("expert_group_count", 3, "'deepseek2.expert_group_count' .* cannot be chosen"),
        ("expert_group_used_count", 5, "'deepseek2.expert_group_count' .* cannot be chosen"),
        ("expert_group_count", 1 << 30, "'deepseek2.expert_group_count' .* cannot be chosen"),
        ("expert_gating_func", 3, "'deepseek2.expert_gating_func' .* supported: 1 and 2"),
        ("expert_weights_scale", 1e9, "'deepseek2.expert_weights_scale'"),
        ("expert_count", 1 << 30, "'deepseek2.expert_group_count' .* cannot|rows where there are"),
        ("block_count", 1 << 30, "'deepseek2.block_count'"),
    ],
)
def test_a_header_that_does_not_fit_is_named(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        describe(with_keys(opened(tmp_path / "m.gguf"), {key: value}))


@pytest.mark.parametrize(
    "name", ["attn_kv_a_mqa.weight", "attn_v_b.weight", "attn_q_b.weight", "attn_output.weight"]
)
def test_a_tensor_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    checkpoint = opened(tmp_path / "m.gguf")
    rest = {own: tensor for own, tensor in checkpoint.tensors.items() if own != f"blk.0.{name}"}
    with pytest.raises(CheckpointError, match=f"no tensor 'blk.0.{name}'"):
        describe(dataclasses.replace(checkpoint, tensors=rest))


def test_heads_beyond_what_the_cache_takes(tmp_path: Path) -> None:
    """The first layer's tensors may fit a header that no kernel runs."""
    checkpoint = opened(tmp_path / "m.gguf", layers=1)
    wide = with_keys(checkpoint, {"attention.kv_lora_rank": 1024})
    tensors = dict(checkpoint.tensors)
    for name, shape in {
        "attn_kv_a_mqa": (1024 + ROTATED, 64),
        "attn_k_b": (4, 1024, 32),
        "attn_v_b": (4, 16, 1024),
    }.items():
        tensors[f"blk.0.{name}.weight"] = dataclasses.replace(tensors[f"blk.0.{name}.weight"], shape=shape)
    with pytest.raises(CheckpointError, match="1056 dimensions; .* up to 576|no tensor"):
        describe(dataclasses.replace(wide, tensors=tensors))
