"""Ollama's API: what it says of models, of itself, and vectors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fake_server import fake_encoder_loader, open_client
from tiny_models import CHAT_TEMPLATE, write_tiny_llama

from llm_serving.service.loader import load_chat_model

pytestmark = pytest.mark.anyio


async def test_what_is_known_of_a_file(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "Tiny.Model-Q8.gguf", kind="Q8_0")
    async with open_client(load=load_chat_model, model_name=str(path), engine="auto") as client:
        (model, embedding) = (await client.get("/api/tags")).json()["models"]
        (running, _) = (await client.get("/api/ps")).json()["models"]
        response = await client.post("/api/show", json={"model": "tiny.model-q8:latest"})
    shown = response.json()
    assert str(tmp_path) not in response.text
    assert model["name"] == model["model"] == "Tiny.Model-Q8:latest"
    assert model["size"] == path.stat().st_size
    assert model["modified_at"].startswith("20")
    assert re.fullmatch("[0-9a-f]{64}", model["digest"])
    assert model["details"] == shown["details"]
    assert (model["details"]["format"], model["details"]["family"]) == ("gguf", "llama")
    assert model["details"]["quantization_level"] == "Q8_0"
    assert re.fullmatch(r"\d+K", model["details"]["parameter_size"])
    assert {**model, **running} == running
    assert (running["context_length"], running["size_vram"]) == (256, 0)
    assert shown["template"] == CHAT_TEMPLATE
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 256
    assert re.search(r"^temperature +0\.7$", shown["parameters"], re.MULTILINE)
    assert embedding["name"] == "fake-embed:latest"
    assert (embedding["size"], embedding["details"]["format"]) == (0, "")
    assert embedding["digest"] != model["digest"]


async def test_what_is_not_loaded_is_listed_and_does_not_run() -> None:
    def broken(*_: Any) -> Any:
        raise LookupError

    async with open_client(load_encoder=broken, reranker_model="rank") as client:
        listed = (await client.get("/api/tags")).json()["models"]
        running = (await client.get("/api/ps")).json()["models"]
        shown = (await client.post("/api/show", json={"name": "rank"})).json()
    assert [model["name"] for model in listed] == ["fake:latest", "fake-embed:latest", "rank:latest"]
    assert [model["name"] for model in running] == ["fake:latest"]
    assert shown["capabilities"] == []


async def test_an_embedding_model_is_shown() -> None:
    async with open_client() as client:
        shown = (await client.post("/api/show", json={"model": "fake-embed"})).json()
        assert shown["capabilities"] == ["embedding"]
        assert client.embedder.dimensions in shown["model_info"].values()
        assert client.embedder.max_tokens in shown["model_info"].values()


async def test_pull_of_what_is_here() -> None:
    async with open_client() as client:
        streamed = await client.post("/api/pull", json={"model": "fake"})
        whole = await client.post("/api/pull", json={"name": "fake:latest", "stream": False})
    assert (streamed.text, streamed.headers["content-type"]) == (
        '{"status":"success"}\n',
        "application/x-ndjson",
    )
    assert (whole.json(), whole.headers["content-type"]) == ({"status": "success"}, "application/json")


async def test_vectors() -> None:
    """The fake encoder's are longer than 1."""
    async with open_client(load_encoder=fake_encoder_loader()) as client:
        body = (await client.post("/api/embed", json={"model": "x", "input": ["Hi", "Hello"]})).json()
        single = (await client.post("/api/embed", json={"input": "Hi"})).json()
        short = (await client.post("/api/embed", json={"input": "Hi", "dimensions": 8})).json()
        older = (await client.post("/api/embeddings", json={"prompt": "Hi"})).json()
        openai = (await client.post("/embeddings", json={"input": "Hi"})).json()
        empty = [
            (await client.post("/api/embed", json={"input": value})).json()["embeddings"]
            for value in (None, "", [])
        ]
        nothing = (await client.post("/api/embeddings", json={})).json()
    vectors = np.array(body["embeddings"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(single["embeddings"], vectors[:1], atol=1e-6)
    assert len(short["embeddings"][0]) == 8
    np.testing.assert_allclose(np.linalg.norm(short["embeddings"]), 1, rtol=1e-6)
    np.testing.assert_allclose(older["embedding"], openai["data"][0]["embedding"], rtol=1e-6)
    assert body["model"] == "fake-embed"
    assert body["prompt_eval_count"] > single["prompt_eval_count"] > 0
    assert body["total_duration"] > 0
    assert empty == [[], [], []]
    assert nothing == {"embedding": []}


async def test_long_texts_are_cut() -> None:
    async with open_client() as client:
        limit = client.embedder.max_tokens
        whole = (await client.post("/api/embed", json={"input": "x " * 5000})).json()
        body = {"input": "x " * 5000, "options": {"num_ctx": 16}}
        cut = (await client.post("/api/embed", json=body)).json()
    assert (whole["prompt_eval_count"], cut["prompt_eval_count"]) == (limit, 16)


@pytest.mark.parametrize("path", ["/", "/api/tags", "/api/version"])
def test_probes(live_url: str, path: str) -> None:
    found, head = httpx.get(live_url + path), httpx.head(live_url + path)
    assert (found.status_code, head.status_code, head.content) == (200, 200, b"")
    if path == "/":
        assert "is running" in found.text
    elif path == "/api/version":
        assert re.fullmatch(r"\d+\.\d+\.\d+", found.json()["version"])
