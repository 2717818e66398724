"""A server without a chat model: embeddings, scores and classes alone, and a clear word for the rest."""

from __future__ import annotations

import pytest
from fake_server import open_client

from llm_serving.config import Settings, SettingsError

pytestmark = pytest.mark.anyio
NO_CHAT = {"model_name": "", "embedding_model": "tiny-embedder"}
ASKED = {"messages": [{"role": "user", "content": "Hi"}]}
CHAT_ROUTES = {
    "/chat/completions": ASKED,
    "/v1/messages": {**ASKED, "max_tokens": 5},
    "/v1/responses": {"input": "Hi"},
    "/completions": {"prompt": "Hi"},
    "/infill": {"input_prefix": "Hi"},
    "/completion": {"prompt": "Hi"},
    "/api/chat": ASKED,
    "/api/generate": {"prompt": "Hi"},
    "/apply-template": ASKED,
}


async def test_embeddings_and_scores_are_served() -> None:
    async with open_client(**NO_CHAT) as client:
        (model,) = (await client.get("/models")).json()["data"]
        assert (model["id"], model["kind"]) == ("tiny-embedder", "embedding")
        answer = (await client.post("/embeddings", json={"input": ["a", "b"]})).json()
        assert [len(each["embedding"]) for each in answer["data"]] == [model["dimensions"]] * 2
        assert (await client.post("/rerank", json={"query": "a", "documents": ["b"]})).status_code == 200
        assert (await client.post("/embed", json={"inputs": "a"})).status_code == 200
        assert len((await client.get("/api/tags")).json()["models"]) == 1


async def test_it_is_ready_when_its_first_model_is() -> None:
    async with open_client(**NO_CHAT) as client:
        ready = await client.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["model"] == "tiny-embedder"
        status = (await client.get("/chat")).json()
        assert (status["status"], status["model_name"]) == ("running", None)
        assert status["embedding_model"] == "tiny-embedder"
        assert "llm_serving_ready 1" in (await client.get("/metrics")).text


@pytest.mark.parametrize("path", CHAT_ROUTES)
async def test_who_wants_to_chat_is_told(path: str) -> None:
    async with open_client(**NO_CHAT) as client:
        for more in ({}, {"model": "gpt-4o"}, {"model": "tiny-embedder"}):
            response = await client.post(path, json={**CHAT_ROUTES[path], **more})
            assert response.status_code == 404
            assert "Start the server with --model-name." in response.text


async def test_there_is_no_page_to_chat_on() -> None:
    async with open_client(**NO_CHAT) as client:
        page = await client.get("/", headers={"accept": "text/html"})
        assert page.headers["content-type"].startswith("text/plain")
        assert (await client.get("/playground/chat.js")).status_code == 404


@pytest.mark.parametrize(
    "settings", [{"embedding_model": ""}, {"further_models": ("tiny",)}, {"lora": ("a=b",)}], ids=str
)
def test_a_server_has_a_model(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="--model-name: name one; "):
        Settings(model_name="", **settings)
    Settings(model_name="", embedding_model="", reranker_model="any")
