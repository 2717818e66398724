"""Text Embeddings Inference's routes, in process."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from fake_server import Client, fake_encoder_loader, open_client

pytestmark = pytest.mark.anyio

TEXTS = ["foxes sleep in dens", "stocks fell on monday", "where do foxes sleep"]


async def post(client: Client, path: str, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def openai(client: Client, given: Any, **fields: Any) -> list[list[float]]:
    data = (await post(client, "/embeddings", input=given, **fields))["data"]
    return [item["embedding"] for item in data]


@pytest.mark.parametrize("path", ["/embed", "/", "/v1/embed"])
async def test_vectors_are_those_of_embeddings(path: str) -> None:
    async with open_client() as client:
        assert await post(client, path, inputs=TEXTS) == await openai(client, TEXTS)
        assert await post(client, path, inputs=TEXTS[0]) == await openai(client, TEXTS[0])
        assert await post(client, path, inputs=[5, 6]) == await openai(client, [5, 6])
        assert await post(client, path, inputs=[[5], [6, 7]]) == await openai(client, [[5], [6, 7]])


async def test_vectors_have_length_one() -> None:
    async with open_client(load_encoder=fake_encoder_loader(prompts={"query": "q: "})) as client:
        for fields in ({}, {"dimensions": 8}, {"prompt_name": "query"}):
            vectors = np.array(await post(client, "/embed", inputs=TEXTS, normalize=True, **fields))
            assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
            assert vectors.tolist() == pytest.approx(
                np.array(await openai(client, TEXTS, **fields)), abs=1e-6
            )


async def test_long_texts_are_refused_or_cut() -> None:
    long = "word " * 5000
    async with open_client() as client:
        for path, body in (
            ("/embed", {"inputs": long}),
            ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", long]}}),
            ("/rerank", {"query": "a", "texts": ["b", long]}),
        ):
            error = (await client.post(path, json=body)).json()["error"]
            named = {"/embed": "'inputs.0'", "/similarity": "'inputs.sentences.1'", "/rerank": "'texts.1'"}
            assert named[path] in error["message"]
            field = "parameters.truncate" if path == "/similarity" else "truncate"
            assert f" {field}: true " in error["message"]
        assert len(await post(client, "/embed", inputs=[long], truncate=True)) == 1
        cut = {"inputs": {"source_sentence": "a", "sentences": [long]}, "parameters": {"truncate": True}}
        assert len(await post(client, "/similarity", **cut)) == 1
        assert len(await post(client, "/rerank", query="a", texts=[long], truncate=True)) == 1
        counts = [
            (await post(client, "/rerank", query="a", documents=[long], truncate_prompt_tokens=16, **more))[
                "usage"
            ]
            for more in ({}, {"truncate": True})
        ]
        assert counts[0] == counts[1], "the number says more"


async def test_similarities_are_cosines() -> None:
    async with open_client() as client:
        sentences = {"source_sentence": TEXTS[2], "sentences": TEXTS}
        found = await post(client, "/similarity", inputs=sentences)
        assert await post(client, "/", inputs=sentences) == found
        vectors = np.array(await openai(client, TEXTS))
    assert found == pytest.approx(vectors @ vectors[2], abs=1e-6)
    assert found[2] == pytest.approx(1)


@pytest.mark.parametrize("reranker", ["", "fake-rank"])
async def test_texts_are_ranked_as_documents_are(reranker: str) -> None:
    async with open_client(reranker_model=reranker) as client:
        documents = (await post(client, "/rerank", query=TEXTS[2], documents=TEXTS))["results"]
        response = await client.post("/rerank", json={"query": TEXTS[2], "texts": TEXTS, "return_text": True})
        scored_by = "cross-encoder" if reranker else "embedding-similarity"
        assert response.headers["x-scored-by"] == scored_by
        raw = await post(client, "/rerank", query=TEXTS[2], texts=TEXTS, raw_scores=True)
    results = response.json()
    expected = [(item["index"], item["relevance_score"], TEXTS[item["index"]]) for item in documents]
    assert [(item["index"], item["score"], item["text"]) for item in results] == expected
    assert all(set(item) == {"index", "score"} for item in raw)
    as_scores = [1 / (1 + math.exp(-item["score"])) if reranker else item["score"] for item in raw]
    assert as_scores == pytest.approx([item["score"] for item in results])


async def test_texts_or_documents() -> None:
    async with open_client() as client:
        for fields, param in (({}, "documents"), ({"texts": ["a"], "documents": ["a"]}, "texts")):
            response = await client.post("/rerank", json={"query": "a", **fields})
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_info() -> None:
    async with open_client(max_embedding_inputs=50) as client:
        info = (await client.get("/info")).json()
        assert (info["model_id"], info["max_client_batch_size"]) == ("fake-embed", 50)
        assert info["max_input_length"] == client.embedder.max_tokens
    async with open_client(embedding_model="") as client:
        assert (await client.get("/info")).status_code == 404
