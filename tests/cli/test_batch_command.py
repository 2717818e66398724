"""`batch`: answers a file, goes on where it was, and says what is wrong before it begins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_server import fake_app, running_server
from patience import PATIENCE_S

from llm_serving.cli.program import run

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
FAKE = ["--model-name", "fake", "--engine", "fake"]


def write(path: Path, count: int, **changes: Any) -> Path:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    same = {"method": "POST", "url": CHAT, "body": body}
    lines = [{"custom_id": f"r{i}", **same, **changes} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def results(path: Path) -> dict[str, Any]:
    return {line["custom_id"]: line["response"] for line in map(json.loads, path.read_text().splitlines())}


def test_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests, out = write(tmp_path / "in", 25), tmp_path / "out"
    assert run(["batch", str(requests), str(out), *FAKE]) == 0
    assert "25 of 25 requests answered" in capsys.readouterr().err
    assert {answer["status_code"] for answer in results(out).values()} == {200}
    whole = out.read_bytes()
    assert run(["batch", str(requests), str(out), *FAKE]) == 0
    assert "0 of 25 requests answered, 25 before" in capsys.readouterr().err
    out.write_bytes(whole[: len(whole) // 2])
    assert run(["batch", str(requests), str(out), *FAKE]) == 0
    assert len(results(out)) == 25
    assert out.read_bytes()[:100] == whole[:100]


def test_by_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests, out = write(tmp_path / "in", 5), tmp_path / "out"
    bad = {"custom_id": "bad", "method": "POST", "url": CHAT, "body": {"messages": []}}
    with requests.open("a") as file:
        file.write(json.dumps(bad))
    with running_server(fake_app(api_key=("sesame",))) as url:
        assert run(["batch", str(requests), str(out), "--url", url, "--api-key", "sesame"]) == 1
        assert "1 have errors" in capsys.readouterr().err
        assert results(out)["bad"]["body"]["error"]["param"] == "messages"
    assert run(["batch", str(requests), str(tmp_path / "new"), "--url", url]) == 2
    assert "Is a server running there?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "/v1/models"}, "line 1: 'url' must be"),
        ({"custom_id": "same"}, "line 2: 'custom_id' is that of another line"),
        ({"method": "GET"}, "(1 further lines are wrong, too.)"),
    ],
)
def test_a_file_that_is_wrong(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, out = write(tmp_path / "in", 2, **changes), tmp_path / "out"
    assert run(["batch", str(requests), str(out), *FAKE]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_what_is_no_file_of_results_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, out = write(tmp_path / "in", 2), tmp_path / "notes"
    out.write_text("my notes\n")
    assert run(["batch", str(requests), str(out), *FAKE]) == 2
    assert "something else" in capsys.readouterr().err
    assert out.read_text() == "my notes\n"


def test_flags_of_a_model_are_not_for_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = write(tmp_path / "in", 1)
    assert run(["batch", str(requests), str(tmp_path / "out"), "--url", "http://x", "--threads", "2"]) == 2
    assert "--threads is the server's affair" in capsys.readouterr().err


def test_without_a_chat_model_embeddings_are_answered_and_chats_refused(tmp_path: Path) -> None:
    no_chat = ["--model-name", "", "--engine", "fake", "--embedding-model", "fake"]
    requests = write(tmp_path / "in", 2, url="/v1/embeddings", body={"input": "Hi"})
    assert run(["batch", str(requests), str(tmp_path / "out"), *no_chat]) == 0
    assert {answer["status_code"] for answer in results(tmp_path / "out").values()} == {200}
    chats = write(tmp_path / "chats", 2)
    run(["batch", str(chats), str(tmp_path / "told"), *no_chat])
    assert {answer["status_code"] for answer in results(tmp_path / "told").values()} == {404}


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = write(tmp_path / "in", 1)
    assert (
        run(["batch", str(requests), str(tmp_path / "out"), "--model-name", str(tmp_path / "no.gguf")]) == 2
    )
    assert "no.gguf" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    """Behind the first three is work for a minute, which nobody who looks now and then misses."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True, "max_tokens": 100_000}
    requests, out = write(tmp_path / "in", 3), tmp_path / "out"
    long = [f"long{i}" for i in range(400)]
    with requests.open("a") as file:
        for name in long:
            line = {"custom_id": name, "method": "POST", "url": CHAT, "body": body}
            file.write(json.dumps(line) + "\n")
    command = [sys.executable, "-m", "llm_serving.cli", "batch", str(requests), str(out), *FAKE]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE_S
    while not out.exists() or len(results(out)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    kept = results(out).keys()
    assert process.returncode == 130
    assert {"r0", "r1", "r2"} <= kept
    assert not kept >= set(long)
    assert b"Traceback" not in said
