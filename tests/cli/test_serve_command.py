"""`serve`: takes the address first, says how to try it, and fails in one line."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from llm_serving.cli.program import run
from llm_serving.cli.serve import _announcement, bind
from llm_serving.config import Settings
from llm_serving.errors import ServingError


def test_a_free_port_is_taken_and_kept() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0


def test_a_port_in_use_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run(["serve", "--engine", "fake", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"Error: Cannot listen on 127.0.0.1 port {port}: something else listens there; "
        "stop it, or choose another with --port.\n"
    )


@pytest.mark.parametrize(
    ("host", "message"), [("256.1.1.1", "--host 256.1.1.1"), ("192.0.2.1", "Cannot listen on")]
)
def test_addresses_that_are_not_ours(host: str, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        bind(host, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "'nonsense' does not exist. Known names: smollm2"),
        (["--embedding-model", "nonsense"], "'nonsense' does not exist. Known names: smollm2"),
        (["--reranker-model", "no/such/folder"], "'no/such/folder' does not exist"),
        (["--classifier-model", "no/such/folder"], "'no/such/folder' does not exist"),
        (["--port", "x"], "--port (LLM_SERVING_PORT)"),
        (["a", "--model-name", "b"], "once"),
        (["--api-key-file", "/no/such/file"], "--api-key-file (LLM_SERVING_API_KEY_FILE)"),
    ],
)
def test_wrong_arguments_end_before_anything_starts(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", *(["--port", "0"] if "--port" not in arguments else []), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "127.0.0.1:8001"), ("0.0.0.0", "127.0.0.1:8001"), ("::", "[::1]:8001")]
)
def test_the_announcement_has_a_command_to_try(host: str, url: str) -> None:
    settings = Settings(host=host, threads=3)
    text = _announcement(settings, host, 8001, has_key=True)
    assert f"curl http://{url}/v1/chat/completions -H 'Authorization: Bearer YOUR_KEY'" in text
    assert "smollm2-135m-instruct, all-minilm-l6-v2\n" in text
    assert "3 threads" in text
    assert f"Chat     http://{url}  (in a browser)\n" in text
    assert "browser" not in _announcement(Settings(playground=False), host, 8001, has_key=True)
    draft = Settings(draft_model="/models/small.gguf")
    assert "Draft    small\n" in _announcement(draft, host, 8001, has_key=False)
    off = Settings(draft_model="/models/small.gguf", speculation="off")
    assert "Draft" not in _announcement(off, host, 8001, has_key=False)
    assert "YOUR_KEY" not in _announcement(settings, host, 8001, has_key=False)


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("embedding_model", "/v1/embeddings"),
        ("reranker_model", "/v1/rerank"),
        ("classifier_model", "/v1/classify"),
    ],
)
def test_without_a_chat_model_it_is_one_that_there_is(field: str, path: str) -> None:
    settings = Settings(**{"model_name": "", "embedding_model": "", field: "any"})
    text = _announcement(settings, "127.0.0.1", 8001, False)
    assert text.startswith("Model    any\n")
    assert f"curl http://127.0.0.1:8001{path} " in text
    assert "in a browser" not in text


def test_a_model_that_cannot_be_loaded_ends_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llm_serving.ops.log.configure_logging", lambda level: None)
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    assert run(["serve", "--port", "0", "--embedding-model", "", str(path)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "broken.gguf" in last
