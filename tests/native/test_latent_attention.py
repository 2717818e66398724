"""Latent attention with absorbed matrices is what heads with keys and values of their own compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latent_reference import LatentReference
from runner_driver import DrivenSequence
from tiny_latent import LATENT, ROTATED, write_latent_directory, write_tiny_latent
from tiny_models import SMALLEST_VOCAB

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, open_checkpoint
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
    errors = np.linalg.norm(ours - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(errors) < {"F32": 1e-9, "Q8_0": 0.05, "Q4_0": 0.25}[kind]


@pytest.mark.parametrize("kv_cache", ["q16", "q8", "q4"])
@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_same_bits_however_it_is_cut(kind: str, kv_cache: str, tmp_path: Path, make_driver) -> None:
    checkpoint = opened(tmp_path / "m.gguf", kind=kind)
    expected = make_driver(checkpoint, kv_cache=kv_cache, isa="scalar").logits(IDS, chunk=300)
    for isa in load_core().instruction_sets():
        for chunk, threads in ((7, 2), (100, 1)):
            driver = make_driver(checkpoint, kv_cache=kv_cache, isa=isa, threads=threads, seed=chunk)
            np.testing.assert_array_equal(driver.logits(IDS, chunk=chunk), expected)


def test_same_bits_behind_a_prefix(tmp_path: Path, make_driver) -> None:
    """Blocks of one sequence serve another."""
    driver = make_driver(opened(tmp_path / "m.gguf", kind="Q8_0"), kv_cache="q8")
    first = DrivenSequence()
    expected = driver.step([(first, IDS[:90])])
    second = DrivenSequence(num_tokens=48, blocks=first.blocks[:3])
    np.testing.assert_array_equal(driver.step([(second, IDS[48:90])]), expected[48:])


@pytest.mark.parametrize("quantization", ["f32", "q8", "q4"])
def test_a_directory_is_the_same_model(quantization: str, tmp_path: Path, make_driver) -> None:
    file = write_tiny_latent(tmp_path / "m.gguf", is_split=False)
    directory = open_checkpoint(write_latent_directory(tmp_path / "d", file))
    assert directory.extras["skipped_tensors"] == {}
    both = (directory, open_checkpoint(file))
    ours, expected = (make_driver(one, quantization=quantization).logits(IDS[:60]) for one in both)
    np.testing.assert_array_equal(ours, expected)


def test_same_bits_in_company(tmp_path: Path, make_driver) -> None:
    checkpoint = opened(tmp_path / "m.gguf", kind="Q8_0")
    alone = make_driver(checkpoint).logits(IDS[:90])
    driver = make_driver(checkpoint, threads=2, seed=3)
    first, second = DrivenSequence(), DrivenSequence()
    driver.step([(second, IDS[90:140])])
    begin = driver.step([(first, IDS[:70]), (second, IDS[140:145])])[:70]
    rest = [driver.step([(second, [int(i)]), (first, [int(i)])])[1] for i in IDS[70:90]]
    np.testing.assert_array_equal(np.concatenate([begin, rest]), alone)
