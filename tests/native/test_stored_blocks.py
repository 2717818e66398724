"""Blocks that leave a runner's memory and come back, into another runner: same bits as if computed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from runner_driver import DrivenSequence, RunnerDriver
from tiny_gemma4 import write_tiny_gemma4
from tiny_models import SMALLEST_VOCAB, write_tiny_llama, write_tiny_qwen2

from llm_serving.blockstore.store import DiskBlockStore
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.native.core import load_core
from llm_serving.native.runner import kv_block_bytes

MODELS = {
    "q4": (write_tiny_llama, {"kind": "Q4_1", "hidden": 96, "heads": 6, "kv_heads": 3, "layers": 3}),
    "q8": (write_tiny_qwen2, {"kind": "F16"}),
    "f32": (write_tiny_llama, {"kind": "F32"}),
    "layers of two shapes": (write_tiny_gemma4, {}),
}
TEXT = np.random.default_rng(5).integers(0, SMALLEST_VOCAB, 75).tolist()
NUM_BLOCKS = 4


@pytest.fixture(params=["q16", "q8", "q4"])
def make_driver(make_driver, request):
    """Every test here, of either kind of KV cache."""
    return partial(make_driver, kv_cache=request.param)


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory) -> Checkpoint:
    write, shape = MODELS[request.param]
    return open_checkpoint(str(write(tmp_path_factory.mktemp("stored") / "m.gguf", **shape)))


def name(number: int) -> bytes:
    return bytes([number] * 16)


def keep(driver: RunnerDriver, directory: Path) -> np.ndarray:
    """Compute all of TEXT, keep its blocks; its logits."""
    sequence = DrivenSequence()
    logits = driver.step([(sequence, TEXT)])
    runner = driver.runner
    store = DiskBlockStore(directory, 1 << 30, runner.content, runner.block_bytes)
    for number in range(NUM_BLOCKS):
        block = sequence.blocks[number]
        assert store.save(name(number), number, lambda out, block=block: runner.read_block(block, out))
    store.close()
    assert store.num_written == NUM_BLOCKS
    driver.finish(sequence)
    return logits


def go_on(driver: RunnerDriver, directory: Path) -> np.ndarray:
    """The logits of what comes after the blocks that are kept."""
    runner = driver.runner
    driver.logits(TEXT[::-1])  # the blocks have held something else
    store = DiskBlockStore(directory, 1 << 30, runner.content, runner.block_bytes)
    sequence = DrivenSequence(num_tokens=16 * NUM_BLOCKS)
    driver._reserve(sequence, sequence.num_tokens)
    room = np.empty(runner.block_bytes, np.uint8)
    for number, block in enumerate(sequence.blocks):
        assert store.load(name(number), number, room)
        runner.write_block(block, room)
    store.close()
    return driver.step([(sequence, TEXT[16 * NUM_BLOCKS :])])


@pytest.mark.parametrize("isa", load_core().instruction_sets())
def test_after_a_restart_the_bits_are_the_same(
    checkpoint: Checkpoint, isa: str, make_driver, tmp_path: Path
) -> None:
    logits = keep(make_driver(checkpoint, seed=1), tmp_path)
    again = go_on(make_driver(checkpoint, isa=isa, threads=2, seed=2), tmp_path)
    assert again.tobytes() == logits[16 * NUM_BLOCKS :].tobytes()


@pytest.mark.model
def test_the_real_model(real_checkpoint: Checkpoint, real_packed, make_driver, tmp_path: Path) -> None:
    make = partial(make_driver, real_checkpoint, threads=2, context_length=256, **real_packed)
    logits = keep(make(seed=1), tmp_path)
    again = go_on(make(seed=2), tmp_path)
    assert again.tobytes() == logits[16 * NUM_BLOCKS :].tobytes()


def test_a_block_is_all_of_it_and_nothing_else(checkpoint: Checkpoint, make_driver) -> None:
    runner = make_driver(checkpoint).runner
    rng = np.random.default_rng(6)
    numbers = [0, 1, 60, 61, 62, runner.limits.num_blocks - 1]  # on both sides of a chunk's end
    blocks = [rng.integers(0, 256, runner.block_bytes).astype(np.uint8) for _ in numbers]
    for number, block in zip(numbers, blocks, strict=True):
        runner.write_block(number, block)
    out = np.empty(runner.block_bytes, np.uint8)
    for number, block in zip(numbers, blocks, strict=True):
        runner.read_block(number, out)
        assert out.tobytes() == block.tobytes()
    runner.read_block(2, out)
    assert not out.any()


def test_the_pool_is_sized_with_the_bytes_that_a_block_has(checkpoint: Checkpoint, make_driver) -> None:
    from llm_serving.architectures import describe

    runner = make_driver(checkpoint).runner
    assert runner.block_bytes == kv_block_bytes(describe(checkpoint), runner.kv_format)


def test_what_does_not_fit_is_refused(checkpoint: Checkpoint, make_driver) -> None:
    runner = make_driver(checkpoint).runner
    room = np.empty(runner.block_bytes, np.uint8)
    for block in (-1, runner.limits.num_blocks):
        with pytest.raises(ValueError, match="out of range"):
            runner.read_block(block, room)
        with pytest.raises(ValueError, match="out of range"):
            runner.write_block(block, room)
    for size in (runner.block_bytes - 1, runner.block_bytes + 1):
        with pytest.raises(ValueError, match="number of bytes"):
            runner.read_block(0, np.empty(size, np.uint8))
        with pytest.raises(ValueError, match="number of bytes"):
            runner.write_block(0, np.empty(size, np.uint8))


def test_a_name_for_all_that_the_bits_depend_on(make_driver, tmp_path: Path, monkeypatch) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")

    def content(path: Path = model, checkpoint: Checkpoint | None = None, **options: object) -> bytes:
        return make_driver(checkpoint or open_checkpoint(path), **options).runner.content

    same = content()
    assert len(same) == 16
    shutil.copy(model, tmp_path / "moved.gguf")
    packed = {"packed_dir": tmp_path / "packed", "packed_bytes": 1 << 30}
    assert content(tmp_path / "moved.gguf") == same
    assert content(threads=2, isa="scalar", context_length=100) == same
    assert content(**packed) == same
    assert content(**packed) == same, "whether packed now or mapped"
    changed = open_checkpoint(model)
    norm = changed.tensors["output_norm.weight"]
    changed.tensors[norm.name] = replace(norm, data=norm.data ^ np.eye(1, norm.data.size, dtype=np.uint8)[0])
    others = [
        content(write_tiny_llama(tmp_path / "seed.gguf", seed=1)),
        content(write_tiny_llama(tmp_path / "rope.gguf", rope_base=10001.0)),
        content(quantization="q8"),
        content(kv_cache="q16" if make_driver.keywords["kv_cache"] == "q8" else "q8"),
        content(checkpoint=changed),
    ]
    monkeypatch.setattr(load_core(), "ARITHMETIC", load_core().ARITHMETIC + 1)
    others.append(content())
    assert len({same, *others}) == 7
