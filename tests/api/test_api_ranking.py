"""`/rerank` and `/score`, by similarity of embeddings and by a cross-encoder."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_server import Client, fake_encoder_loader, open_client

pytestmark = pytest.mark.anyio

QUERY = "where do foxes sleep"
DOCUMENTS = ["stocks fell on monday", "foxes sleep in dens", "where do foxes sleep", "dogs sleep too"]
KINDS = ["embedding-similarity", "cross-encoder"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=KINDS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    reranker = "fake-rank" if request.param == "cross-encoder" else ""
    async with open_client(reranker_model=reranker, max_embedding_inputs=50) as client:
        yield client


def kind_of(client: Client) -> str:
    return KINDS[client.services.registry.reranker is not None]


async def post(client: Client, path: str, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
async def test_rerank(server: Client, path: str) -> None:
    body = await post(server, path, query=QUERY, documents=DOCUMENTS, model="jina-reranker")
    assert set(body) == {"id", "object", "model", "scored_by", "usage", "results"}
    assert body["scored_by"] == kind_of(server)
    assert body["model"] == ("fake-rank" if kind_of(server) == "cross-encoder" else "fake-embed")
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] > 20
    results = body["results"]
    assert [result["index"] for result in results] == [2, 1, 3, 0]
    assert all(set(result) == {"index", "relevance_score"} for result in results)
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert all(-1.001 <= score <= 1.001 for score in scores)


async def test_scores_are_the_sigmoid_or_the_cosine(server: Client) -> None:
    results = (await post(server, "/rerank", query=QUERY, documents=DOCUMENTS))["results"]
    expected = 1 / (1 + math.exp(-2.0)) if kind_of(server) == "cross-encoder" else 1.0
    assert results[0]["relevance_score"] == pytest.approx(expected, abs=1e-6)


async def test_top_n_and_documents(server: Client) -> None:
    mixed: list[Any] = [{"text": DOCUMENTS[0], "id": 1}, *DOCUMENTS[1:]]
    body = await post(server, "/rerank", query=QUERY, documents=mixed, top_n=2, return_documents=True)
    assert [result["document"] for result in body["results"]] == [
        {"text": DOCUMENTS[2]},
        {"text": DOCUMENTS[1]},
    ]
    assert len((await post(server, "/rerank", query="x", documents=DOCUMENTS, top_n=99))["results"]) == 4


async def test_equal_documents_keep_their_order(server: Client) -> None:
    results = (await post(server, "/rerank", query=QUERY, documents=["same"] * 20))["results"]
    assert [result["index"] for result in results] == list(range(20))


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("sides", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items")])
async def test_score(server: Client, path: str, sides: tuple[str, str]) -> None:
    first, second = sides
    one = await post(server, path, **{first: QUERY, second: DOCUMENTS[1]})
    assert set(one) == {"id", "object", "created", "model", "scored_by", "usage", "data"}
    assert one["scored_by"] == kind_of(server)
    many = await post(server, path, **{first: QUERY, second: DOCUMENTS})
    assert [(item["index"], item["object"]) for item in many["data"]] == [(i, "score") for i in range(4)]
    assert many["data"][1]["score"] == one["data"][0]["score"]
    pairs = await post(server, path, **{first: DOCUMENTS, second: DOCUMENTS[::-1]})
    single = await post(server, path, **{first: [DOCUMENTS[2]], second: [DOCUMENTS[1]]})
    assert pairs["data"][2]["score"] == single["data"][0]["score"]


async def test_score_and_rerank_agree(server: Client) -> None:
    ranked = (await post(server, "/rerank", query=QUERY, documents=DOCUMENTS))["results"]
    scored = (await post(server, "/score", text_1=QUERY, text_2=DOCUMENTS))["data"]
    assert all(scored[each["index"]]["score"] == each["relevance_score"] for each in ranked)


RERANK_BAD: list[tuple[dict[str, Any], str]] = [
    ({"documents": ["a"]}, "query"),
    ({"query": None, "documents": ["a"]}, "query"),
    ({"query": "", "documents": ["a"]}, "query"),
    ({"query": ["q"], "documents": ["a"]}, "query"),
    ({"query": "q"}, "documents"),
    ({"query": "q", "documents": []}, "documents"),
    ({"query": "q", "documents": "a"}, "documents"),
    ({"query": "q", "documents": {"text": "a"}}, "documents"),
    ({"query": "q", "documents": ["a"] * 51}, "documents"),
    ({"query": "q", "documents": ["a", ""]}, "documents.1"),
    ({"query": "q", "documents": ["a", None]}, "documents.1"),
    ({"query": "q", "documents": [5]}, "documents.0"),
    ({"query": "q", "documents": [{"title": "a"}]}, "documents.0"),
    ({"query": "q", "documents": [{"text": 5}]}, "documents.0"),
    ({"query": "q", "documents": [["a"]]}, "documents.0"),
    ({"query": "q", "documents": ["a", "b " * 300]}, "documents.1"),
    ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
    ({"query": "q", "documents": ["a"], "top_n": "1"}, "top_n"),
    ({"query": "q", "documents": ["a"], "top_n": True}, "top_n"),
    ({"query": "q", "documents": ["a"], "return_documents": 1}, "return_documents"),
    ({"query": "q", "documents": ["a"], "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"query": "q", "documents": ["a b c d"], "truncate_prompt_tokens": 2}, "truncate_prompt_tokens"),
    ({"query": "q", "documents": ["a"], "model": "fake"}, "model"),
    ({"query": "q", "documents": ["a"], "model": 5}, "model"),
]
SCORE_BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "text_1"),
    ({"text_1": "a"}, "text_2"),
    ({"text_2": "a"}, "text_1"),
    ({"queries": "a"}, "documents"),
    ({"items": "a"}, "queries"),
    ({"text_1": "a", "items": "b"}, "items"),
    ({"text_1": "a", "text_2": "b", "queries": "c"}, "queries"),
    ({"text_1": "", "text_2": "b"}, "text_1.0"),
    ({"text_1": "a", "text_2": ["b", ""]}, "text_2.1"),
    ({"text_1": [], "text_2": "b"}, "text_1"),
    ({"text_1": ["a", 5], "text_2": ["b", "c"]}, "text_1.1"),
    ({"text_1": ["a", "b"], "text_2": "c"}, "text_1"),
    ({"text_1": ["a", "b"], "text_2": ["c"] * 3}, "text_1"),
    ({"text_1": "a", "text_2": ["b"] * 51}, "text_2"),
    ({"text_1": 5, "text_2": "b"}, "text_1"),
    ({"text_1": "a", "text_2": ["b", "c " * 300]}, "text_2.1"),
]
BAD = [("/rerank", *each) for each in RERANK_BAD] + [("/score", *each) for each in SCORE_BAD]


@pytest.mark.parametrize(("path", "body", "param"), BAD, ids=lambda value: repr(value)[:40])
async def test_wrong_requests(server: Client, path: str, body: dict[str, Any], param: str) -> None:
    response = await server.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"] == param
    assert param in error["message"]


async def test_long_documents_are_cut_when_asked(server: Client) -> None:
    documents = ["where do foxes sleep " * 100, "dogs"]
    body = await post(server, "/rerank", query=QUERY, documents=documents, truncate_prompt_tokens=-1)
    assert [result["index"] for result in body["results"]] == [0, 1]


async def test_the_model_that_is_named_scores() -> None:
    async with open_client(reranker_model="fake-rank", strict_model_names=True) as client:
        for name, kind in (("fake-embed", KINDS[0]), ("fake-rank", KINDS[1]), (None, KINDS[1])):
            body = await post(client, "/rerank", query="a", documents=["b"], model=name)
            assert body["scored_by"] == kind
        response = await client.post("/rerank", json={"query": "a", "documents": ["b"], "model": "other"})
        assert response.status_code == 404
        state = (await client.get("/models/fake-rank")).json()
        assert (state["kind"], state["capabilities"], state["state"]) == (
            "reranker",
            ["rerank", "score"],
            "loaded",
        )


async def test_prompts_of_the_model_are_put_before_each_side() -> None:
    encoders = fake_encoder_loader({"query": "stocks monday ", "document": ""})
    async with open_client(load_encoder=encoders) as client:
        results = (await post(client, "/rerank", query="fell", documents=DOCUMENTS))["results"]
        assert results[0]["index"] == 0
