"""What clients see while the model is loading, failed, dead or unloaded; names; small endpoints."""

from __future__ import annotations

import logging
import threading

import pytest
from fake_server import Client, fake_loader, open_client
from patience import PATIENCE_S

from llm_serving.config import Settings
from llm_serving.errors import CheckpointError
from llm_serving.service.model import ChatModel

pytestmark = pytest.mark.anyio

BODY = {"messages": [{"content": "Hello"}]}
NOT_STARTED = {"status": "not started", "message": "You need to start the service first."}


async def check_unavailable(client: Client, code: str, reason: str) -> None:
    assert (await client.get("/chat")).json() == NOT_STARTED
    assert (await client.get("/health")).status_code == 200
    ready = await client.get("/ready")
    assert ready.status_code == 503
    assert "retry-after" in ready.headers
    for path, body in (("/chat/completions", BODY), ("/completions", {"prompt": "x"})):
        response = await client.post(path, json=body)
        error = response.json()["error"]
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert error["code"] == code
        assert reason in error["message"]
    assert "llm_serving_ready 0.0" in (await client.get("/metrics")).text


async def test_while_loading() -> None:
    may_load = threading.Event()

    def load(settings: Settings) -> ChatModel:
        assert may_load.wait(PATIENCE_S)
        return fake_loader()(settings)

    async with open_client(load, wait=False) as client:
        try:
            await check_unavailable(client, "model_loading", "is loading")
            assert (await client.get("/models")).json()["data"][0]["state"] == "loading"
            assert (await client.post("/chat/completions", content=b"{")).status_code == 400
        finally:
            may_load.set()
        await client.services.registry.default.settled()
        assert (await client.get("/ready")).status_code == 200
        assert (await client.post("/chat/completions", json=BODY)).status_code == 200


async def test_left_while_loading() -> None:
    may_load = threading.Event()
    models: list[ChatModel] = []

    def load(settings: Settings) -> ChatModel:
        assert may_load.wait(PATIENCE_S)
        models.append(fake_loader()(settings))
        return models[0]

    async with open_client(load, wait=False):
        pass
    may_load.set()  # and nobody waits for it


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CheckpointError("model.gguf: is truncated.\nAt 7."), "is truncated. At 7."),
        (KeyError("x"), "KeyError"),
    ],
)
async def test_failed_to_load(error: Exception, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    def load(settings: Settings) -> ChatModel:
        raise error

    async with open_client(load) as client:
        await check_unavailable(client, "model_unavailable", reason)
        assert reason in (await client.get("/ready")).json()["reason"]
        assert (await client.get("/models")).json()["data"][0]["state"] == "failed"
    assert "failed to load" in caplog.text


async def test_device_that_is_not_there_is_named() -> None:
    from llm_serving.service.loader import load_chat_model

    async with open_client(load_chat_model, device="cuda:1") as client:
        await check_unavailable(client, "model_unavailable", "--device")


async def test_dead_engine(caplog: pytest.LogCaptureFixture) -> None:
    async with open_client(behaviour={"fail_at_step": 3}) as client:
        response = await client.post("/chat/completions", json={**BODY, "n": 2})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_dead"
        assert "RuntimeError" in response.json()["error"]["message"]
        await check_unavailable(client, "model_unavailable", "stopped working")


async def test_after_the_end_new_requests_are_refused() -> None:
    async with open_client() as client:
        await client.services.registry.close()
        await check_unavailable(client, "model_unavailable", "stopping")


async def test_status_is_the_live_configuration() -> None:
    async with open_client(max_new_tokens=77, do_sample=False, system_prompt="You are ....") as client:
        for path in ("/chat", "/v1/chat"):
            assert (await client.get(path)).json() == {
                "status": "running",
                "llm_serving_url": "http://test:8001",
                "model_name": "fake",
                "max_new_tokens": 77,
                "device": "fake",
                "do_sample": False,
                "system_prompt": "You are ....",
                "embedding_model": "fake-embed",
            }


async def test_unknown_model_is_served_by_the_default() -> None:
    async with open_client() as client:
        for name in ("gpt-4o", "", None, "bigscience/bloomz-1b1"):
            response = await client.post("/chat/completions", json={**BODY, "model": name, "max_tokens": 1})
            assert response.json()["model"] == "fake"


async def test_strict_names() -> None:
    async with open_client(strict_model_names=True, model_name="smollm2") as client:
        for path, body in (("/chat/completions", BODY), ("/completions", {"prompt": "x"})):
            response = await client.post(path, json={**body, "model": "gpt-4o"})
            error = response.json()["error"]
            assert response.status_code == 404
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            assert "smollm2-135m-instruct" in error["message"]
            for known in ("smollm2-135m-instruct", "SmolLM2", None):
                response = await client.post(path, json={**body, "model": known, "max_tokens": 1})
                assert response.status_code == 200


async def test_models() -> None:
    async with open_client(model_name="smollm2") as client:
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list"
        model, embedder = listed["data"]
        assert embedder == {
            "id": "fake-embed",
            "object": "model",
            "created": 2,
            "owned_by": "llm-serving",
            "aliases": [],
            "kind": "embedding",
            "capabilities": ["embeddings", "rerank", "score"],
            "context_length": 256,
            "dimensions": 32,
            "state": "loaded",
        }
        assert (await client.get("/models/fake-embed")).json() == embedder
        assert (model["kind"], "dimensions" in model) == ("chat", False)
        assert model["id"] == "smollm2-135m-instruct"
        assert (model["object"], model["state"], model["context_length"]) == ("model", "loaded", 4096)
        for name in ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"):
            assert (await client.get(f"/models/{name}")).json() == model
        assert (await client.get("/models/gpt-4o")).json()["error"]["code"] == "model_not_found"


async def test_path_of_a_model_is_not_shown() -> None:
    async with open_client(model_name="/secret/folder/my-model.Q4.gguf") as client:
        listed = await client.get("/models")
        assert listed.json()["data"][0]["id"] == "my-model.Q4"
        assert "secret" not in listed.text


async def test_metrics(client: Client) -> None:
    await client.post("/chat/completions", json={**BODY, "max_tokens": 4})
    await client.post("/v1/chat/completions", json={})
    await client.get("/wp-admin")
    text = (await client.get("/metrics")).text
    for line in (
        'llm_serving_requests_total{route="/chat/completions",status="200"} 1.0',
        'llm_serving_requests_total{route="/chat/completions",status="400"} 1.0',
        'llm_serving_requests_total{route="unmatched",status="404"} 1.0',
        "llm_serving_ready 1.0",
        'llm_serving_prompt_tokens_total{model="fake"} 6.0',
        'llm_serving_generated_tokens_total{model="fake"} 4.0',
        'llm_serving_sequences_running{model="fake"} 0.0',
        'llm_serving_sequences_waiting{model="fake"} 0.0',
        'llm_serving_time_to_first_token_seconds_count{model="fake"} 1.0',
        'llm_serving_inter_token_seconds_count{model="fake"} 1.0',
        'llm_serving_sequence_seconds_count{model="fake"} 1.0',
        "llm_serving_requests_in_flight 1.0",
    ):
        assert f"{line}\n" in text
    assert 'llm_serving_kv_blocks_free{model="fake"} ' in text


async def test_request_id_is_taken_over_if_it_is_sane(client: Client) -> None:
    for given, is_taken in [("abc-1:2", True), ("x" * 65, False), ("a b", False), ("", False)]:
        response = await client.get("/health", headers={"x-request-id": given})
        assert (response.headers["x-request-id"] == given) is is_taken


async def test_unknown_error_is_500_with_the_id_and_the_trace_in_the_log_only(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object) -> None:
        raise ValueError("internal detail")

    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(type(client.services.chat), "open", broken)
    response = await client.post("/chat/completions", json=BODY, headers={"x-request-id": "find-me"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "find-me" in response.json()["error"]["message"]
    assert "internal detail" not in response.text
    assert "find-me" in caplog.text
    assert "internal detail" in caplog.text
