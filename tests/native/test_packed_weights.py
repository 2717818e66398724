"""Packed weights on disk: the same bits as fresh ones, never stale, never torn, never in the way."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packed_starts import LIMIT, packed_files, start, wait_until_published
from patience import wait_until
from tiny_models import write_tiny_llama, write_tiny_qwen2

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError
from llm_serving.native import packed_file
from llm_serving.native.packed_cache import PackedCache
from llm_serving.native.packed_file import PackedFile

__all__ = ["start"]


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("quantization", ["auto", "q4", "q8", "f32"])
def test_second_start_packs_nothing_and_gives_the_same_bits(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, copies: bool
) -> None:
    monkeypatch.setattr(PackedFile, "is_fast_to_map", lambda self: not copies)
    model = write_tiny_qwen2(tmp_path / "m.gguf", kind="F16", tied=False)
    fresh = start(model, limit=0, quantization=quantization)
    first = start(model, quantization=quantization)
    second = start(model, quantization=quantization)
    assert (fresh.adopted, first.adopted, second.packed) == (0, 0, 0)
    assert first.packed == fresh.packed == second.adopted > 10
    assert fresh.logits.tobytes() == first.logits.tobytes() == second.logits.tobytes()


def test_rotary_pairs_and_shared_matrices(start, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf", kind="Q4_K", hidden=256, ffn=512, heads=8, kv_heads=1)
    first, second = start(model), start(model)
    assert (first.packed, second.adopted, second.packed) == (15, 15, 0)
    assert first.logits.tobytes() == second.logits.tobytes()


def test_formats_have_files_of_their_own(start, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    q8 = start(model, quantization="q8")
    f32 = start(model, quantization="f32")
    assert len(packed_files(tmp_path)) == 2
    assert start(model, quantization="q8").logits.tobytes() == q8.logits.tobytes() != f32.logits.tobytes()


def flip_a_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "unfinished": lambda path: flip_a_bit(path, 0),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "panels": lambda path: flip_a_bit(path, packed_file.PAGE + 5),
    "index": lambda path: flip_a_bit(path, -9),
    "foreign version": lambda path: path.write_bytes(b"LLMPACK9" + path.read_bytes()[8:]),
    "a directory's worth of nothing": lambda path: path.write_bytes(bytes(100_000)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_packed_anew(
    start, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    fresh = start(model)
    (path,) = packed_files(tmp_path)
    whole = path.read_bytes()
    DAMAGE[damage](path)
    again = start(model)
    assert (again.adopted, again.logits.tobytes()) == (0, fresh.logits.tobytes())
    assert "are packed anew" in caplog.text
    assert packed_files(tmp_path) == [path]
    assert path.read_bytes() == whole
    assert start(model).packed == 0


def test_file_without_a_matrix_goes(start, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    fresh = start(model)
    (path,) = packed_files(tmp_path)
    file, shorter = PackedFile(path), tmp_path / "shorter"
    with shorter.open("wb") as out:
        writer = packed_file.PackedWriter(out)
        for key, entry in list(file.entries.items())[1:]:
            writer.add(key, entry.format, (entry.rows, entry.cols), file.panels(entry), entry.checksum)
        writer.finish(file.facts)
    shorter.rename(path)
    for packed in (1, fresh.packed, 0):
        again = start(model)
        assert (again.packed, again.adopted) == (packed, fresh.packed - packed)
        assert again.logits.tobytes() == fresh.logits.tobytes()


def test_changed_model_is_noticed(start, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf", seed=1)
    old = start(model)
    stat = model.stat()
    write_tiny_llama(model, seed=2)
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copying tool would
    assert model.stat().st_size == stat.st_size
    new = start(model)
    assert new.adopted == 0
    assert new.logits.tobytes() == start(model, limit=0).logits.tobytes() != old.logits.tobytes()


def test_model_that_changes_while_it_is_packed_is_not_kept(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    other = write_tiny_llama(tmp_path / "other.gguf", seed=2)
    add = packed_file.PackedWriter.add

    def replace_and_add(self: Any, *args: Any) -> None:
        if other.exists():
            other.rename(model)
        add(self, *args)

    monkeypatch.setattr(packed_file.PackedWriter, "add", replace_and_add)
    start(model)
    assert packed_files(tmp_path) == []


def test_broken_model_leaves_nothing(start, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    model.write_bytes(model.read_bytes().replace(b"blk.1.ffn_down", b"blk.1.ffn_dawn"))
    with pytest.raises(CheckpointError, match="ffn_down"):
        start(model)
    assert packed_files(tmp_path) == []


@pytest.mark.parametrize("problem", ["a file is there", "disk full", "sync fails", "no room"])
def test_disk_that_refuses_is_no_error(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    model = write_tiny_llama(tmp_path / "m.gguf")

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    if problem == "a file is there":
        (tmp_path / "packed").write_text("not a directory")
    elif problem == "disk full":
        monkeypatch.setattr(packed_file.PackedWriter, "add", fail)
    elif problem == "sync fails":
        monkeypatch.setattr(packed_file.os, "fsync", fail)
    limit = 20_000 if problem == "no room" else LIMIT
    first, second = start(model, limit=limit), start(model, limit=limit)
    assert first.logits.tobytes() == second.logits.tobytes()
    assert second.adopted == 0
    assert sum("are not kept" in record.getMessage() for record in caplog.records) == 2
    if problem != "a file is there":
        assert packed_files(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_directory_is_read(start, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    start(model)
    (tmp_path / "packed").chmod(0o500)
    assert start(model).packed == 0
    assert start(model, quantization="f32").adopted == 0
    (tmp_path / "packed").chmod(0o700)


def test_least_recently_used_goes_first(start, tmp_path: Path) -> None:
    models = [write_tiny_llama(tmp_path / f"{i}.gguf", seed=i) for i in range(4)]
    start(models[0])
    size = packed_files(tmp_path)[0].stat().st_size
    for age, model in enumerate(models[:3]):
        start(model)
        cache = PackedCache(tmp_path / "packed", LIMIT)
        newest = next(kept for kept in cache.models() if kept.model == model)
        os.utime(newest.path, (1000 + age, 1000 + age))
    start(models[0])  # used again: now the newest
    start(models[3], limit=3 * size)
    left = PackedCache(tmp_path / "packed", LIMIT).models()
    assert sorted(kept.model.stem for kept in left) == ["0", "2", "3"]


def test_mapping_is_released_with_the_runner(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    options = EngineOptions(packed_dir=tmp_path / "packed", packed_bytes=LIMIT, max_concurrency=1)
    build_runner(open_checkpoint(model), options).close()
    wait_until_published()
    runner = build_runner(open_checkpoint(model), options)
    (path,) = packed_files(tmp_path)
    runner.close()
    del runner
    wait_until(lambda: str(path) not in Path("/proc/self/maps").read_text())
