"""Clients hear why a model cannot answer, and not where it lies; the log has both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_server import open_client
from tiny_models import write_tiny_llama

from llm_serving.errors import CheckpointError
from llm_serving.service.encoder_loader import load_encoder_model
from llm_serving.service.loader import load_chat_model
from llm_serving.service.reasons import folders_of, one_line, without_folders


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/models/x.gguf: is damaged.", "x.gguf: is damaged."),
        ("The model '/data/models/x.gguf' has no tensor 'a/b'.", "The model 'x.gguf' has no tensor 'a/b'."),
        ("No such file: /x.gguf, nor (/data/y).", "No such file: x.gguf, nor (y)."),
        ("in:/data/models/x.gguf", "in:x.gguf"),
        ("~/models/x.gguf is old", "x.gguf is old"),
        ("/data/My Models/qwen/config.json: is not JSON.", "config.json: is not JSON."),
        ("'/data/My Models' is full", "'My Models' is full"),
        ("hf download Qwen/Qwen3-4B, see https://host.example/a/b", None),
        ("12 tokens/s, f32/f16, 1 / 2, ../models/x and GB / s", None),
        ("POST it", None),
    ],
)
def test_absolute_paths_become_names_of_files(text: str, shown: str | None) -> None:
    assert without_folders(text, ["/data/My Models"]) == (text if shown is None else shown)


def test_folders_are_known_in_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/a b")
    folders = folders_of("some models/x.gguf", Path("~/my cache"))
    assert {str(tmp_path / "some models"), "/home/a b", "/home/a b/my cache"} <= set(folders)
    assert "/" not in folders_of("/x.gguf")
    text = f"{tmp_path}/some models/x.gguf and /home/a b/my cache/y: {tmp_path}"
    assert without_folders(text, folders) == f"x.gguf and y: {tmp_path.name}"


def test_foreign_errors_tell_their_type_only() -> None:
    assert one_line(ValueError("/etc/passwd")) == "ValueError; the log says more."
    assert one_line(CheckpointError("a\n  b")) == "a b"


@pytest.mark.anyio
async def test_a_load_that_fails_tells_clients_no_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    damaged = write_tiny_llama(folder / "damaged.gguf")
    damaged.write_bytes(damaged.read_bytes()[:-64])
    settings: dict[str, Any] = {
        "model_name": str(damaged),
        "further_models": (str(folder / "absent.gguf"),),
        "embedding_model": str(folder / "nothing"),
        "engine": "auto",
        "cache_dir": tmp_path / "my cache",
    }
    async with open_client(load_chat_model, load_encoder=load_encoder_model, **settings) as client:
        chat = {"messages": [{"content": "Hi"}]}
        told = [
            await client.post("/chat/completions", json=chat),
            await client.post("/chat/completions", json={**chat, "model": "absent"}),
            await client.post("/embeddings", json={"input": "a"}),
            await client.get("/ready"),
            await client.get("/models"),
            await client.get("/chat"),
        ]
    assert [response.status_code for response in told] == [503, 503, 503, 503, 200, 200]
    assert "damaged.gguf: " in told[0].text
    assert "absent.gguf" in told[1].text
    for response in told:
        assert str(tmp_path) not in response.text
        assert "my models" not in response.text
    for path in (damaged, folder / "absent.gguf", folder / "nothing"):
        assert str(path) in caplog.text
