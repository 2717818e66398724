"""`/embeddings` with whatever comes in, with an encoder that fails, and with more than it can hold."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_server import Client, fake_encoder_loader, open_client

from llm_serving.backends.fake_encoder import ENCODER_VOCAB_SIZE, word_id

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Client]:
    async with open_client(max_embedding_inputs=100) as client:
        yield client


async def refused(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post("/embeddings", json=body)
    error: dict[str, Any] = response.json()["error"]
    assert response.status_code == 400, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert (await client.post("/embeddings", json={"input": "fine"})).status_code == 200
    return error


INPUTS: list[tuple[Any, str]] = [
    (None, "input"),
    ("", "input.0"),
    ([], "input"),
    ([""], "input.0"),
    (["a", ""], "input.1"),
    (5, "input"),
    (True, "input"),
    ({}, "input"),
    ({"text": "a"}, "input"),
    ([None], "input.0"),
    (["a", None], "input.1"),
    (["a", 5], "input.1"),
    ([1.5], "input.0"),
    ([True], "input.0"),
    ([{"text": "a"}], "input.0"),
    ([1, 2, "a"], "input.2"),
    ([1, 2.0], "input.1"),
    ([1, True], "input.1"),
    ([1, None], "input.1"),
    ([[]], "input.0"),
    ([[1], []], "input.1"),
    ([[1], 2], "input.1"),
    ([[1], "a"], "input.1"),
    ([["a"]], "input.0.0"),
    ([[1], [1, False]], "input.1.1"),
    ([[[1]]], "input.0.0"),
    ([-1], "input"),
    ([ENCODER_VOCAB_SIZE], "input"),
    ([10**18], "input"),
    ([[1], [ENCODER_VOCAB_SIZE]], "input.1"),
    ([[-5]], "input.0"),
    ([3] * 255, "input"),
    ([[3], [3] * 255], "input.1"),
    (["a"] * 101, "input"),
    (["a"] * 100_000, "input"),
    ([[3]] * 101, "input"),
    ([3] * 100_000, "input"),
    ("word " * 100_000, "input.0"),
]


@pytest.mark.parametrize(("value", "param"), INPUTS, ids=lambda value: repr(value)[:20])
async def test_wrong_input_is_named_by_its_place(server: Client, value: Any, param: str) -> None:
    error = await refused(server, {"input": value})
    assert error["param"] == param
    assert param in error["message"]


async def test_counts_are_named(server: Client) -> None:
    error = await refused(server, {"input": ["a"] * 100_000})
    assert "100000" in error["message"]
    assert "takes 100 " in error["message"]
    assert "--max-embedding-inputs" in error["message"]
    assert (await server.post("/embeddings", json={"input": ["a"] * 100})).status_code == 200


async def test_missing_input_is_the_seeds_empty_text_and_refused(server: Client) -> None:
    assert (await refused(server, {"model": "x"}))["param"] == "input.0"


FIELDS: list[tuple[str, Any]] = [
    ("model", 5),
    ("model", ["x"]),
    ("model", "x" * 600),
    ("encoding_format", "int8"),
    ("encoding_format", "FLOAT"),
    ("encoding_format", 1),
    ("dimensions", 0),
    ("dimensions", -1),
    ("dimensions", 33),
    ("dimensions", 10**30),
    ("dimensions", "8"),
    ("dimensions", True),
    ("dimensions", 8.0),
    ("user", 7),
    ("user", "x" * 600),
    ("truncate_prompt_tokens", 0),
    ("truncate_prompt_tokens", -2),
    ("truncate_prompt_tokens", 257),
    ("truncate_prompt_tokens", "10"),
    ("truncate_prompt_tokens", True),
    ("input_type", "QUERY"),
    ("input_type", 1),
    ("prompt_name", "query"),
    ("prompt_name", []),
]


@pytest.mark.parametrize(("field", "value"), FIELDS, ids=lambda value: repr(value)[:20])
async def test_wrong_values(server: Client, field: str, value: Any) -> None:
    error = await refused(server, {"input": "a", field: value})
    assert error["param"] == field
    assert field in error["message"]


async def test_dimensions_above_the_models_own_name_both(server: Client) -> None:
    message = (await refused(server, {"input": "a", "dimensions": 512}))["message"]
    assert "512" in message
    assert "32" in message


async def test_cut_that_leaves_no_room(server: Client) -> None:
    error = await refused(server, {"input": "a b c", "truncate_prompt_tokens": 2})
    assert error["param"] == "truncate_prompt_tokens"


@pytest.mark.parametrize(
    "text", [" ", "\n", "\x00", "😀", "a\u0301", "<|im_end|>", "[CLS]", "\u202e", "a" * 5000]
)
async def test_odd_texts_are_texts(server: Client, text: str) -> None:
    assert (await server.post("/embeddings", json={"input": [text]})).status_code == 200


async def test_a_failing_encoder_is_a_500_for_that_batch_only(caplog: pytest.LogCaptureFixture) -> None:
    encoders = fake_encoder_loader(fails_on=word_id("bomb"), nan_on=word_id("nan"))
    async with open_client(load_encoder=encoders) as client:
        for text in ("bomb", "nan"):
            response = await client.post("/embeddings", json={"input": ["fine", f"a {text}"]})
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "internal_error"
            assert "told to" not in response.text
            assert (await client.post("/embeddings", json={"input": "fine"})).status_code == 200
    assert "as it was told to" in caplog.text


async def test_a_dead_encoder_is_a_503_and_the_chat_goes_on() -> None:
    async with open_client(load_encoder=fake_encoder_loader(dies_on=word_id("bomb"))) as client:
        response = await client.post("/embeddings", json={"input": "bomb"})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_dead"
        response = await client.post("/embeddings", json={"input": "fine"})
        assert response.json()["error"]["code"] == "model_unavailable"
        assert (await client.get("/ready")).json()["models"][1]["state"] == "failed"
        assert (await client.get("/ready")).status_code == 200


async def test_overload_is_429_with_retry_after() -> None:
    gate = threading.Event()
    encoders = fake_encoder_loader(gate=gate)
    async with open_client(load_encoder=encoders, embedding_queue=10) as client:
        try:
            running = asyncio.ensure_future(client.post("/embeddings", json={"input": "x"}))
            while not client.embedder.stats().num_running:
                await asyncio.sleep(0.001)
            waiting = asyncio.ensure_future(client.post("/embeddings", json={"input": ["x"] * 50}))
            while not client.embedder.stats().num_waiting:
                await asyncio.sleep(0.001)
            refused = await client.post("/embeddings", json={"input": "x"})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            text = (await client.get("/metrics")).text
            assert 'llm_serving_encoder_texts_waiting{kind="embedding"} 50.0' in text
        finally:
            gate.set()
        assert (await running).status_code == (await waiting).status_code == 200


async def test_stopping_lets_accepted_texts_finish() -> None:
    async with open_client(load_encoder=fake_encoder_loader(seconds=0.02), drain_s=60) as client:
        running = asyncio.ensure_future(client.post("/embeddings", json={"input": ["x y z"] * 900}))
        while not client.embedder.stats().num_running:
            await asyncio.sleep(0.001)
        client.services.registry.begin_close()
        assert (await client.post("/embeddings", json={"input": "x"})).status_code == 503
        assert len((await running).json()["data"]) == 900


async def test_metrics(client: Client) -> None:
    await client.post("/embeddings", json={"input": ["a b", "c"]})
    await client.post("/v1/embeddings", json={"input": "d"})
    text = (await client.get("/metrics")).text
    for line in (
        'llm_serving_requests_total{route="/embeddings",status="200"} 2.0',
        'llm_serving_encoder_requests_total{kind="embedding"} 2.0',
        'llm_serving_encoder_texts_total{kind="embedding"} 3.0',
        'llm_serving_encoder_tokens_total{kind="embedding"} 10.0',
        'llm_serving_encoder_texts_waiting{kind="embedding"} 0.0',
        'llm_serving_encoder_batch_texts_bucket{kind="embedding",le="1"} 1.0',
        'llm_serving_encoder_batch_texts_bucket{kind="embedding",le="+Inf"} 2.0',
        'llm_serving_encoder_batch_texts_sum{kind="embedding"} 3.0',
    ):
        assert f"{line}\n" in text
