"""The programs in examples/ run as they are, against the real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fake_server import running_server
from fastapi import FastAPI
from real_model import real_model_path

pytestmark = pytest.mark.model
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, server: str, typed: str = "") -> str:
    """What the program prints; it must print no errors."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        input=typed,
        env={**os.environ, "OPENAI_BASE_URL": f"{server}/v1", "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_example_is_run_and_short() -> None:
    text = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert path.name in text or f"from {path.stem} import" in text
        assert len(path.read_text().splitlines()) < 60


def test_chat(real_server: str) -> None:
    printed = run("chat_stream.py", real_server, "What colour is the sky?\nAnd grass?\n\n")
    assert printed.count("> ") == 3
    assert all(len(answer) > 5 for answer in printed.split("> ")[1:3])


def test_structured_answer(real_server: str) -> None:
    complaint = json.loads(run("structured_answer.py", real_server))
    assert complaint["colour"] == "blue"
    assert set(complaint) == {"product", "colour", "price", "wants_money_back"}


def test_function_calls(real_server: str) -> None:
    first, answer = run("function_calls.py", real_server).split("\n", 1)
    assert first.startswith('count({"fruit":')
    assert answer.strip()


def test_search(real_server: str) -> None:
    lines = run("search.py", real_server).splitlines()
    assert len(lines) == 3
    assert "Foxes" in lines[0]


@pytest.fixture
def own_app(nothing_runs: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("LLM_SERVING_MODEL_NAME", str(real_model_path()))
    monkeypatch.setenv("LLM_SERVING_MAX_NEW_TOKENS", "20")
    from own_app import app

    assert isinstance(app, FastAPI)
    with running_server(app) as url:
        yield url


def test_own_app(own_app: str) -> None:
    asked = httpx.get(f"{own_app}/closest", params={"question": "Where is my package?"}, timeout=60).json()
    assert asked["answer"] == "Within three days."
    assert httpx.get(f"{own_app}/polite", params={"text": "Go away."}, timeout=60).json()["text"]
    assert httpx.get(f"{own_app}/polite/stream", params={"text": "Go away."}, timeout=60).text
