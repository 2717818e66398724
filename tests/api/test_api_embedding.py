"""`/embeddings`: shapes of input and output, dimensions, prompts, truncation, names, load."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import numpy as np
import pytest
from fake_server import Client, fake_encoder_loader, open_client
from patience import PATIENCE_S

from llm_serving.backends.fake_encoder import FakeEncoder, FakeEncoderTokenizer, word_id
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.errors import CheckpointError

pytestmark = pytest.mark.anyio

PROMPTS = {"query": "find: ", "passage": "text: ", "classify": "sort: "}


def expected(*texts: str) -> np.ndarray:
    ids = FakeEncoderTokenizer().encode_batch(texts)
    return FakeEncoder().encode([EncoderInput(each) for each in ids])


async def embed(client: Client, input: Any, path: str = "/embeddings", **fields: Any) -> Any:
    response = await client.post(path, json={"input": input, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def vectors_of(body: Any) -> np.ndarray:
    assert [item["index"] for item in body["data"]] == list(range(len(body["data"])))
    return np.array([item["embedding"] for item in body["data"]], np.float32)


@pytest.mark.parametrize("path", ["/embeddings", "/v1/embeddings"])
async def test_shape_of_the_seed(client: Client, path: str) -> None:
    body = await embed(
        client, ["Hello, world!", "How are you?"], path, model="model name", encoding_format="float"
    )
    assert list(body) == ["object", "data", "model", "usage"]
    assert body["object"] == "list"
    assert body["model"] == "fake-embed"
    assert body["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    assert [set(item) for item in body["data"]] == [{"object", "index", "embedding"}] * 2
    assert {item["object"] for item in body["data"]} == {"embedding"}
    assert vectors_of(body).tobytes() == expected("Hello, world!", "How are you?").tobytes()


async def test_every_shape_of_input_is_the_same_text(client: Client) -> None:
    plain = [word_id("hello"), word_id("world")]
    shapes = [
        "hello world",
        ["hello world"],
        plain,
        [plain],
        FakeEncoderTokenizer().encode_batch(["hello world"]),
    ]
    bodies = [await embed(client, shape) for shape in shapes]
    assert all(body == bodies[0] for body in bodies)
    assert bodies[0]["usage"]["prompt_tokens"] == 4


async def test_base64_is_little_endian_float32(client: Client) -> None:
    texts = ["a", "b c", "d e f"] * 7
    body = await embed(client, texts, encoding_format="base64")
    rows = [np.frombuffer(base64.b64decode(item["embedding"], validate=True), "<f4") for item in body["data"]]
    assert np.stack(rows).tobytes() == expected(*texts).tobytes()


async def test_null_and_absent_are_the_defaults(client: Client) -> None:
    nothing = dict.fromkeys(
        (
            "model",
            "encoding_format",
            "dimensions",
            "user",
            "truncate_prompt_tokens",
            "input_type",
            "prompt_name",
        )
    )
    assert await embed(client, "x", **nothing) == await embed(client, "x")


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
async def test_dimensions_cut_and_normalise(client: Client, encoding_format: str) -> None:
    full = expected("hello world")[0]
    for dimensions in (1, 7, 31, 32):
        body = await embed(client, "hello world", dimensions=dimensions, encoding_format=encoding_format)
        vector = body["data"][0]["embedding"]
        if encoding_format == "base64":
            vector = np.frombuffer(base64.b64decode(vector), "<f4")
        assert len(vector) == dimensions
        np.testing.assert_allclose(vector, full[:dimensions] / np.linalg.norm(full[:dimensions]), atol=1e-6)


async def test_too_long_is_refused_and_cut_only_when_asked(client: Client) -> None:
    long = " ".join(f"word{i}" for i in range(400))
    response = await client.post("/embeddings", json={"input": ["short", long]})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (
        400,
        "context_length_exceeded",
        "input.1",
    )
    assert "402" in error["message"]
    assert "256" in error["message"]
    for asked, kept in ((-1, 254), (256, 254), (10, 8)):
        body = await embed(client, [long], truncate_prompt_tokens=asked)
        assert body["usage"]["prompt_tokens"] == kept + 2
        assert vectors_of(body).tobytes() == expected(" ".join(long.split()[:kept])).tobytes()
    assert await embed(client, "short", truncate_prompt_tokens=10) == await embed(client, "short")


async def test_a_long_text_is_read_on_a_thread_and_gives_the_same(client: Client) -> None:
    texts = [" ".join([f"word{i}"] * 200) for i in range(40)]
    assert vectors_of(await embed(client, texts)).tobytes() == expected(*texts).tobytes()


async def test_two_thousand_texts_and_a_short_one_beside_them(client: Client) -> None:
    texts = [f"text number {i} of many" for i in range(2048)]
    big = asyncio.ensure_future(embed(client, texts, encoding_format="base64"))
    await asyncio.sleep(0.005)
    small = await embed(client, "alone")
    assert vectors_of(small).tobytes() == expected("alone").tobytes()
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in (await big)["data"]]
    assert np.stack(rows).tobytes() == expected(*texts).tobytes()


async def test_the_batch_does_not_change_a_vector(client: Client) -> None:
    texts = [f"{'word ' * (i % 17)}{i}" for i in range(64)]
    singles = await asyncio.gather(*(embed(client, text) for text in texts))
    together = vectors_of(await embed(client, texts))
    assert np.concatenate([vectors_of(body) for body in singles]).tobytes() == together.tobytes()


async def test_models_with_prompts() -> None:
    async with open_client(load_encoder=fake_encoder_loader(PROMPTS, "any: ")) as client:

        async def prefix(**fields: Any) -> bytes:
            return vectors_of(await embed(client, "cats", **fields)).tobytes()

        assert await prefix() == expected("any: cats").tobytes()
        assert await prefix(prompt_name="classify") == expected("sort: cats").tobytes()
        for kind in ("query", "search_query"):
            assert await prefix(input_type=kind) == expected("find: cats").tobytes()
        for kind in ("document", "passage", "search_document"):
            assert await prefix(input_type=kind) == expected("text: cats").tobytes()
        body = await embed(client, [word_id("cats")])
        assert vectors_of(body).tobytes() == expected("cats").tobytes()
        for fields, param, words in (
            ({"prompt_name": "nope"}, "prompt_name", "query, passage, classify"),
            ({"input_type": "nope"}, "input_type", "search_document"),
            ({"input_type": "query", "prompt_name": "query"}, "prompt_name", "one"),
            ({"input_type": "query", "input": [5]}, "input_type", "token arrays"),
            ({"prompt_name": "query", "input": [[5]]}, "prompt_name", "token arrays"),
        ):
            response = await client.post("/embeddings", json={"input": "cats", **fields})
            assert response.status_code == 400
            assert response.json()["error"]["param"] == param
            assert words in response.json()["error"]["message"]


async def test_models_without_prompts_read_both_sides_alike(client: Client) -> None:
    for kind in ("query", "document", "passage"):
        assert await embed(client, "cats", input_type=kind) == await embed(client, "cats")
    response = await client.post("/embeddings", json={"input": "cats", "prompt_name": "query"})
    assert response.status_code == 400
    assert "none" in response.json()["error"]["message"]


@pytest.mark.parametrize("strict", [False, True])
async def test_names(strict: bool) -> None:
    async with open_client(strict_model_names=strict, reranker_model="fake-rank") as client:
        for known in ("fake-embed", "FAKE-EMBED ", None):
            assert (await embed(client, "x", model=known))["model"] == "fake-embed"
        assert (await embed(client, "x"))["model"] == "fake-embed"
        unknown = await client.post("/embeddings", json={"input": "x", "model": "text-embedding-3-small"})
        assert unknown.status_code == (404 if strict else 200)
        for other, kind in (("fake", "chat"), ("fake-rank", "reranker")):
            response = await client.post("/embeddings", json={"input": "x", "model": other})
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, "model")
            assert kind in error["message"]
            assert "fake-embed" in error["message"]
        body = {"messages": [{"content": "x"}], "model": "fake-embed"}
        assert (await client.post("/chat/completions", json=body)).json()["error"]["param"] == "model"


async def test_without_an_embedding_model() -> None:
    async with open_client(embedding_model="") as client:
        for path, body in (
            ("/embeddings", {"input": "x"}),
            ("/rerank", {"query": "x", "documents": ["y"]}),
            ("/score", {"text_1": "x", "text_2": "y"}),
        ):
            response = await client.post(path, json=body)
            assert response.status_code == 404
            assert "--embedding-model" in response.json()["error"]["message"]
        assert (await client.get("/chat")).json()["embedding_model"] is None
        assert len((await client.get("/models")).json()["data"]) == 1


async def test_while_loading_a_request_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    may_load = threading.Event()

    def load(*args: Any) -> Any:
        assert may_load.wait(PATIENCE_S)
        return fake_encoder_loader()(*args)

    async with open_client(load_encoder=load, wait=False) as client:
        try:
            await client.services.registry.default.settled()
            ready = (await client.get("/ready")).json()
            assert ready["status"] == "ready"
            assert [(each["id"], each["state"]) for each in ready["models"]] == [
                ("fake", "ready"),
                ("fake-embed", "loading"),
            ]
            assert (await client.get("/chat")).json()["embedding_model"] is None
            assert (await client.get("/models/fake-embed")).json()["state"] == "loading"
            monkeypatch.setattr("llm_serving.service.embedding.LOADING_WAIT_S", 0.01)
            late = await client.post("/embeddings", json={"input": "x"})
            assert late.status_code == 503
            assert late.json()["error"]["code"] == "model_loading"
            assert int(late.headers["retry-after"]) > 0
            monkeypatch.setattr("llm_serving.service.embedding.LOADING_WAIT_S", PATIENCE_S)
            waiting = asyncio.ensure_future(embed(client, "x"))
            await asyncio.sleep(0.02)
            assert not waiting.done()
        finally:
            may_load.set()
        assert (await waiting)["model"] == "fake-embed"


async def test_embeddings_that_cannot_be_loaded_leave_the_chat_alone() -> None:
    def load(*args: Any) -> Any:
        raise CheckpointError("model.safetensors: is truncated.")

    async with open_client(load_encoder=load) as client:
        response = await client.post("/embeddings", json={"input": "x"})
        assert response.status_code == 503
        assert "is truncated" in response.json()["error"]["message"]
        ready = await client.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["models"][1]["reason"] == "model.safetensors: is truncated."
        chat = await client.post("/chat/completions", json={"messages": [{"content": "x"}], "max_tokens": 1})
        assert chat.status_code == 200
