"""The user's own README of the service, from top to bottom: a test for every line that promises something.

Its class definitions are in `test_seed_classes.py`.

Here on the fake engines, over a live server.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_server import data_of, fake_app, running_server
from fastapi import FastAPI, HTTPException
from openai import OpenAI
from patience import PATIENCE_S

from llm_serving import (
    embed_texts,
    generate_response,
    lifespan,
)

ROOT = Path(__file__).parents[2]
REPLY = "Microsoft is a company. 😀"
SYSTEM_PROMPT = "You are ...."
BLOOM = {
    "model": "bigscience/bloomz-1b1",
    "messages": [{"content": "Translate to English: Je t’aime."}],
    "max_tokens": 512,
    "temperature": 0.1,
    "stream": False,
}
QWEN = {
    "model": "Qwen/Qwen2.5-3B-Instruct",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello! Talk about the News."},
    ],
    "max_tokens": 512,
    "temperature": 0.1,
    "stream": False,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = fake_app(behaviour={"reply": REPLY}, system_prompt=SYSTEM_PROMPT, do_sample=True)
    with running_server(app) as opened:
        yield opened


# How to run


def test_requirements_file_installs_this_package() -> None:
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()]
    assert [line for line in lines if line and not line.startswith("#")] == ["."]


def test_uvicorn_main_app_from_the_root_directory() -> None:
    """`uvicorn main:app --host 0.0.0.0 --port …`, as a process."""
    port = str(_free_port())
    command = [sys.executable, "-m", "uvicorn", "main:app", "--host", "0.0.0.0", "--port", port]
    environment = {**os.environ, "LLM_SERVING_ENGINE": "fake", "LLM_SERVING_DRAIN_S": "0"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            status = _get_when_up(f"http://127.0.0.1:{port}/chat")
            assert status["llm_serving_url"].endswith(f":{port}")
        finally:
            process.terminate()
            _, log = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in log


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get_when_up(url: str) -> Any:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            body = httpx.get(url).json()
            if body["status"] == "running":
                return body
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError("the server did not start")


def test_client_snippet(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    client = OpenAI(api_key="OPENAI_API_KEY", base_url=f"{url}/")
    stream = client.chat.completions.create(
        messages=[
            {
                "role": "user",
                "content": "tell me about Microsoft",
            }
        ],
        model="gpt-4o",
        stream=True,
    )
    for chunk in stream:
        if chunk.choices[0].delta.content is not None:
            print(chunk.choices[0].delta.content, end="")
    client.close()
    assert capsys.readouterr().out == REPLY


# Functions overview


def test_lifespan_is_for_any_fastapi_app(nothing_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Initializes model, tokenizer, embedder and embed tokenizer at the start, cleans up at the end."""
    monkeypatch.setenv("LLM_SERVING_ENGINE", "fake")
    monkeypatch.setenv("LLM_SERVING_DRAIN_S", "0")
    app = FastAPI(
        title="Model Serving API",
        description="API for generating and streaming model outputs.",
        lifespan=lifespan,
    )
    with running_server(app):
        assert generate_response("Give me a news update on today's technology trends.", stream=False)
        assert embed_texts(["text"])
    with pytest.raises(HTTPException):
        generate_response("x")


def test_lifespan_yields_nothing() -> None:
    async def enter() -> Any:
        async with lifespan(fake_app()) as value:
            return value

    assert asyncio.run(enter()) is None


def test_generate_response_returns_the_text(url: str) -> None:
    generated_text = generate_response("Give me a news update on today's technology trends.", stream=False)
    assert generated_text == REPLY
    assert list(inspect.signature(generate_response).parameters) == ["prompt", "model_name", "stream"]
    assert generate_response(prompt="x", model_name="bigscience/bloomz-1b1") == REPLY


def test_generate_response_streams(url: str) -> None:
    pieces = list(generate_response("x", stream=True))
    assert all(isinstance(piece, str) for piece in pieces)
    assert "".join(pieces) == REPLY


def test_generate_response_raises_http_exception_when_not_initialized(nothing_runs: None) -> None:
    with pytest.raises(HTTPException) as caught:
        generate_response("x")
    assert caught.value.status_code == 503


def test_embed_texts(url: str) -> None:
    vectors = embed_texts(texts=["one", "two"])
    assert isinstance(vectors, list)
    assert [len(vector) for vector in vectors] == [32, 32]
    assert all(isinstance(number, float) for number in vectors[0])


def test_embed_texts_raises_http_exception_when_not_initialized(nothing_runs: None) -> None:
    with pytest.raises(HTTPException) as caught:
        embed_texts(["x"])
    assert caught.value.status_code == 503


def test_embed_texts_raises_http_exception_on_errors(url: str) -> None:
    with pytest.raises(HTTPException):
        embed_texts([""])


# API endpoints


def test_chat_when_started(url: str) -> None:
    assert httpx.get(f"{url}/chat").json() == {
        "status": "running",
        "llm_serving_url": url,
        "model_name": "fake",
        "max_new_tokens": 1024,
        "device": "fake",
        "do_sample": True,
        "system_prompt": SYSTEM_PROMPT,
        "embedding_model": "fake-embed",
    }


def test_chat_when_not_started() -> None:
    app = fake_app()  # its lifespan has not begun

    async def get() -> Any:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get("/chat")).json()

    assert asyncio.run(get()) == {
        "status": "not started",
        "message": "You need to start the service first.",
    }


@pytest.mark.parametrize("body", [BLOOM, QWEN], ids=["bloom", "qwen"])
def test_chat_completions(url: str, body: dict[str, Any]) -> None:
    response = httpx.post(f"{url}/chat/completions", json=body)
    assert response.status_code == 200
    answer = response.json()
    assert answer["id"]
    assert answer["object"] == "chat.completion"
    assert abs(answer["created"] - time.time()) < 60
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": REPLY}


@pytest.mark.parametrize("body", [BLOOM, QWEN], ids=["bloom", "qwen"])
def test_chat_completions_stream(url: str, body: dict[str, Any]) -> None:
    response = httpx.post(f"{url}/chat/completions", json={**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert data_of(response.text)[-1] == "[DONE]"


def test_embeddings(url: str) -> None:
    body = {"model": "model name", "input": ["Hello, world!", "How are you?"], "encoding_format": "float"}
    answer = httpx.post(f"{url}/embeddings", json=body).json()
    assert answer["object"] == "list"
    assert [(item["object"], item["index"]) for item in answer["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    assert all(isinstance(number, float) for item in answer["data"] for number in item["embedding"])
    assert answer["model"] == "fake-embed"
