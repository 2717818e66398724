"""Low-rank adapters: what merged weights give, and bit for bit the same in whatever company."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence
from tiny_adapters import ALL, chosen, module_shapes, random_matrices, write_adapter, write_matrices
from tiny_decoder_directories import LAYER_PARTS, write_directory
from tiny_gpt_oss import write_tiny_gpt_oss
from tiny_models import (
    SMALLEST_VOCAB,
    write_tiny_ernie,
    write_tiny_gemma3,
    write_tiny_glm4,
    write_tiny_granite,
    write_tiny_llama,
    write_tiny_mixtral,
    write_tiny_olmo2,
    write_tiny_phi3,
    write_tiny_qwen2,
    write_tiny_qwen3_moe,
    write_tiny_smollm3,
)

from llm_serving.checkpoints import Checkpoint, Tensor, dequantize, open_checkpoint
from llm_serving.native.core import load_core

RNG = np.random.default_rng(31)
TEXT = RNG.integers(0, SMALLEST_VOCAB, 150).tolist()
SHORT = TEXT[:40]
OTHERS = [RNG.integers(0, SMALLEST_VOCAB, n).tolist() for n in (1, 40, 7, 90, 16)]
ATTENTION = ALL[:4]
# Formats of activations: 8 bits, 16 bits, floats; ranks that are no multiples of anything.
MODELS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "q4": (write_tiny_llama, {"kind": "Q4_1", "hidden": 288, "heads": 9, "kv_heads": 3, "ffn": 416}, {}),
    "q8": (write_tiny_qwen2, {"kind": "F16", "hidden": 160, "heads": 2, "kv_heads": 1, "tied": False}, {}),
    "f32": (write_tiny_llama, {"kind": "F32"}, {"quantization": "f32"}),
    "experts": (write_tiny_qwen3_moe, {"kind": "Q4_1", "hidden": 96, "ffn": 64}, {}),
    "sinks": (write_tiny_gpt_oss, {"kind": "Q8_0", "hidden": 96}, {}),
}
ADAPTERS = (
    {"rank": 4, "names": ALL, "seed": 1},
    {"rank": 17, "names": ("k_proj", "o_proj", "lm_head"), "seed": 2},
    {"rank": 1, "names": ("q_proj", "v_proj"), "seed": 3},
)


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory) -> tuple[Checkpoint, dict[str, Any]]:
    """A checkpoint, and options that run it with three adapters."""
    write, shape, options = MODELS[request.param]
    folder = tmp_path_factory.mktemp("adapted")
    checkpoint = open_checkpoint(str(write(folder / "m.gguf", **shape)))
    paths = tuple(write_adapter(folder / str(i), checkpoint, **kind) for i, kind in enumerate(ADAPTERS))
    return checkpoint, {**options, "adapters": paths}


def assert_same_bits(ours: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(ours.view(np.uint32), expected.view(np.uint32))


def merged(checkpoint: Checkpoint, matrices: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Checkpoint:
    """A directory's model with what the adapter adds in its weights."""
    tensors = dict(checkpoint.tensors)
    for module, (down, up) in matrices.items():
        name = f"{module}.weight"
        values = (dequantize(tensors[name]) + up @ down).astype(np.float32)
        tensors[name] = Tensor(name, "F32", values.shape, values.reshape(-1).view(np.uint8))
    return replace(checkpoint, tensors=tensors, files=())


FAMILIES: dict[str, tuple[Any, Mapping[str, str]]] = {
    "llama": (write_tiny_llama, LAYER_PARTS),
    "qwen2": (write_tiny_qwen2, LAYER_PARTS),
    "gemma3": (write_tiny_gemma3, LAYER_PARTS),
    "granite": (write_tiny_granite, LAYER_PARTS),
    "smollm3": (write_tiny_smollm3, LAYER_PARTS),
    "olmo2": (write_tiny_olmo2, LAYER_PARTS),
    "mixtral": (write_tiny_mixtral, LAYER_PARTS),
    "ernie": (write_tiny_ernie, LAYER_PARTS),
    "phi3": (write_tiny_phi3, {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}),
    "glm4": (write_tiny_glm4, {**LAYER_PARTS, "ffn_up": "mlp.gate_up_proj"}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_merged_weights_give_from_files_and_directories(
    family: str, tmp_path: Path, make_driver
) -> None:
    write, parts = FAMILIES[family]
    gguf = write(tmp_path / "m.gguf", kind="F32", tied=False)
    file, directory = open_checkpoint(str(gguf)), open_checkpoint(write_directory(tmp_path / "m", gguf))
    matrices = random_matrices(module_shapes(file, parts), 6, 5, gain=0.5)
    path = write_matrices(tmp_path / "adapter", matrices, lora_alpha=6)
    make = partial(make_driver, quantization="f32", threads=2)
    base = make(directory).logits(SHORT)
    of_directory = make(directory, adapters=(path,)).logits(SHORT, adapter=0)
    of_file = make(file, adapters=(path,)).logits(SHORT, adapter=0)
    expected = make(merged(directory, matrices)).logits(SHORT)
    size = np.abs(expected).max()
    assert np.abs(expected - base).max() > 0.1 * size, "an adapter that is felt"
    np.testing.assert_allclose(of_directory, expected, atol=1e-3 * size)
    np.testing.assert_allclose(of_file, expected, atol=1e-3 * size)


def test_scales(tmp_path: Path, make_driver) -> None:
    """`lora_alpha` / r, / sqrt(r) with `use_rslora`, and `alpha_pattern` for some."""
    file = open_checkpoint(str(write_tiny_llama(tmp_path / "m.gguf", kind="F32")))
    matrices = random_matrices(chosen(module_shapes(file), ("q_proj", "down_proj")), 4, 7)

    def scaled(query: float, down: float) -> Path:
        own = {
            module: (a, b * np.float32(query if module.endswith("q_proj") else down))
            for module, (a, b) in matrices.items()
        }
        return write_matrices(tmp_path / f"{query} {down}", own, lora_alpha=4)

    def adapter(name: str, **config: Any) -> Path:
        return write_matrices(tmp_path / name, matrices, **config)

    pairs = [
        (adapter("plain", lora_alpha=8), scaled(2, 2)),
        (adapter("rs", lora_alpha=8, use_rslora=True), scaled(4, 4)),
        (adapter("pattern", lora_alpha=4, alpha_pattern={"mlp.down_proj": 2}), scaled(1, 0.5)),
        (adapter("regex", lora_alpha=4, alpha_pattern={"layers\\.[01]\\..*q_proj": 16}), scaled(4, 1)),
        (adapter("infix", lora_alpha=4, infix=".default"), scaled(1, 1)),
    ]
    driver = make_driver(file, adapters=tuple(path for pair in pairs for path in pair))
    for i in range(len(pairs)):
        assert_same_bits(driver.logits(SHORT, adapter=2 * i), driver.logits(SHORT, adapter=2 * i + 1))
    different = {driver.logits(SHORT, adapter=2 * i)[-1].tobytes() for i in range(len(pairs))}
    assert len(different) == len(pairs)


def test_rows_in_company(model: tuple[Checkpoint, dict[str, Any]], make_driver) -> None:
    """Three adapters and none in one step, prompts and single tokens: each has what it has alone."""
    checkpoint, options = model
    plain = make_driver(checkpoint, **{**options, "adapters": ()})
    driver = make_driver(checkpoint, threads=2, **options)
    owners = [-1, 2, 0, 1, 0]
    texts = [text + SHORT for text in OTHERS]
    alone = [
        plain.logits(text) if owner < 0 else driver.logits(text, adapter=owner)
        for text, owner in zip(texts, owners, strict=True)
    ]
    batch = [DrivenSequence(adapter=owner) for owner in owners]
    prompts = [text[:-3] for text in texts]
    ends = np.cumsum([len(prompt) for prompt in prompts])
    got = np.split(driver.step(list(zip(batch, prompts, strict=True))), ends[:-1])
    for ours, expected in zip(got, alone, strict=True):
        assert_same_bits(ours, expected[:-3])
    for i in (-3, -2, -1):
        rows = driver.step([(one, [text[i]]) for one, text in zip(batch, texts, strict=True)])
        assert_same_bits(rows, np.stack([expected[i] for expected in alone]))


def test_adapters_are_felt_and_differ(model: tuple[Checkpoint, dict[str, Any]], make_driver) -> None:
    checkpoint, options = model
    driver = make_driver(checkpoint, **options)
    logits = [driver.logits(SHORT, adapter=adapter) for adapter in (-1, 0, 1, 2)]
    for i, one in enumerate(logits):
        for other in logits[:i]:
            assert np.abs(one - other).max() > 1e-2 * np.abs(one).max()


def test_any_chunking(model: tuple[Checkpoint, dict[str, Any]], make_driver) -> None:
    checkpoint, options = model
    driver = make_driver(checkpoint, **options)
    for adapter in (0, 1):
        whole = driver.logits(TEXT, adapter=adapter)
        for chunk in (1, 7, 64, 65):
            assert_same_bits(driver.logits(TEXT, chunk, adapter), whole)


def test_asking_for_fewer_rows(model: tuple[Checkpoint, dict[str, Any]], make_driver) -> None:
    """An adapter of the head works on rows of logits, not on tokens."""
    checkpoint, options = model
    driver = make_driver(checkpoint, **options)
    expected = [driver.logits(TEXT, adapter=1), driver.logits(SHORT), driver.logits(SHORT, adapter=0)]
    work = [(DrivenSequence(adapter=1), TEXT), (DrivenSequence(), SHORT), (DrivenSequence(adapter=0), SHORT)]
    rows = [140, 3, 150 + 39, 150 + 40 + 39, 149]
    got = driver.step(work, rows)
    wanted = [expected[0][140], expected[0][3], expected[1][39], expected[2][39], expected[0][149]]
    assert_same_bits(got, np.stack(wanted))


@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads(model: tuple[Checkpoint, dict[str, Any]], make_driver, threads: int) -> None:
    checkpoint, options = model
    one, many = make_driver(checkpoint, **options), make_driver(checkpoint, threads=threads, **options)
    for adapter in (0, 1, 2):
        for text, chunk in ((TEXT[:30], 0), (TEXT, 37), (SHORT, 1)):
            assert_same_bits(many.logits(text, chunk, adapter), one.logits(text, 0, adapter))


def test_simd_equals_scalar(model: tuple[Checkpoint, dict[str, Any]], make_driver) -> None:
    checkpoint, options = model
    by_isa = {isa: make_driver(checkpoint, isa=isa, **options) for isa in load_core().instruction_sets()}
    scalar = by_isa.pop("scalar")
    for adapter in (0, 1, 2):
        for chunk in (0, 1, 3):
            expected = scalar.logits(TEXT[:60], chunk, adapter)
            for fast in by_isa.values():
                assert_same_bits(fast.logits(TEXT[:60], chunk, adapter), expected)


def test_the_base_is_the_same_model_with_adapters_beside_it(
    model: tuple[Checkpoint, dict[str, Any]], make_driver
) -> None:
    """Also for blocks on disk: what others computed without adapters is found."""
    checkpoint, options = model
    plain, with_some = (
        make_driver(checkpoint, **{**options, "adapters": ()}),
        make_driver(checkpoint, **options),
    )
    assert plain.runner.content == with_some.runner.content
    assert_same_bits(with_some.logits(TEXT), plain.logits(TEXT))
    assert plain.runner.limits.adapters == ()
    assert len(set(with_some.runner.limits.adapters)) == 3


@pytest.mark.model
def test_the_real_model(real_checkpoint: Checkpoint, real_packed, tmp_path: Path, make_driver) -> None:
    make = partial(make_driver, real_checkpoint, context_length=128, max_concurrency=4, **real_packed)
    paths = tuple(
        write_adapter(tmp_path / str(seed), real_checkpoint, rank=16, seed=seed, gain=0.3)
        for seed in (1, 2, 3)
    )
    ids = np.random.default_rng(5).integers(17, 20000, 50).tolist()
    plain, driver = make(), make(adapters=paths, threads=2)
    alone = [plain.logits(ids), *(driver.logits(ids, adapter=adapter) for adapter in (0, 1, 2))]
    for one in alone[1:]:
        assert np.abs(one - alone[0]).max() > 0.5
    batch = [(DrivenSequence(adapter=adapter), ids) for adapter in (-1, 0, 1, 2)]
    assert_same_bits(driver.step(batch), np.concatenate(alone))
    decode = [(DrivenSequence(adapter=adapter), ids[:1]) for adapter in (2, -1, 0, 1)]
    assert_same_bits(driver.step(decode), np.stack([alone[i][0] for i in (3, 0, 1, 2)]))
    for isa in load_core().instruction_sets()[1:]:
        assert_same_bits(make(isa=isa, adapters=paths).logits(ids[:6], adapter=1), alone[2][:6])
