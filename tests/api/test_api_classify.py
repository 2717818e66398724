"""`/classify` and `/predict`: shapes, pairs, what is refused, and without a classifier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from fake_server import Client, fake_encoder_loader, open_client

from llm_serving.service.encoder_loader import FAKE_CLASSES

pytestmark = pytest.mark.anyio

TEXTS = ["stocks fell on monday", "foxes sleep in dens", "dogs sleep too"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Client]:
    async with open_client(classifier_model="fake-classes", max_embedding_inputs=5) as client:
        yield client


async def post(client: Client, path: str, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def refusal(client: Client, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
async def test_classify(server: Client, path: str) -> None:
    body = await post(server, path, input=TEXTS, model="distilbert-sst2")
    assert set(body) == {"id", "object", "created", "model", "labels", "data", "usage"}
    assert (body["model"], body["object"]) == ("fake-classes", "list")
    assert body["labels"] == list(FAKE_CLASSES.labels)
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] > 10
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    for item in body["data"]:
        assert set(item) == {"index", "label", "probs", "num_classes"}
        assert item["num_classes"] == 3
        assert sum(item["probs"]) == pytest.approx(1)
        assert item["label"] == body["labels"][int(np.argmax(item["probs"]))]


async def test_logits_are_what_probabilities_are_made_of(server: Client) -> None:
    shares = (await post(server, "/classify", input=TEXTS))["data"]
    logits = (await post(server, "/classify", input=TEXTS, use_activation=False))["data"]
    for share, logit in zip(shares, logits, strict=True):
        expected = np.exp(logit["probs"]) / np.exp(logit["probs"]).sum()
        np.testing.assert_allclose(share["probs"], expected, rtol=1e-12)
        assert share["label"] == logit["label"]


async def test_pairs_stand_where_they_were_sent(server: Client) -> None:
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    mixed = (await post(server, "/classify", input=[pair, TEXTS[2], {"text": TEXTS[0]}, pair]))["data"]
    alone = [(await post(server, "/classify", input=item))["data"][0] for item in (pair, TEXTS[2], TEXTS[0])]
    assert [item["probs"] for item in mixed] == [item["probs"] for item in (*alone, alone[0])]
    assert alone[0]["probs"] != alone[2]["probs"]


async def test_token_arrays(server: Client) -> None:
    tokens = [5, 6, 7]
    one = (await post(server, "/classify", input=tokens))["data"]
    many = (await post(server, "/classify", input=[tokens, [9]]))["data"]
    assert len(one) == 1
    assert len(many) == 2
    assert one[0]["probs"] == many[0]["probs"]


async def test_predict_is_the_same_best_first(server: Client) -> None:
    classified = await post(server, "/classify", input=TEXTS)
    predicted = await post(server, "/predict", inputs=[[text] for text in TEXTS])
    for item, found in zip(classified["data"], predicted, strict=True):
        assert {each["label"]: each["score"] for each in found} == dict(
            zip(classified["labels"], item["probs"], strict=True)
        )
        scores = [each["score"] for each in found]
        assert scores == sorted(scores, reverse=True)
    for inputs in (TEXTS[0], [TEXTS[0]]):
        assert await post(server, "/predict", inputs=inputs) == predicted[0]


async def test_two_strings_are_a_pair_for_predict(server: Client) -> None:
    pair = await post(server, "/predict", inputs=TEXTS[:2], raw_scores=True)
    assert pair == (await post(server, "/predict", inputs=[TEXTS[:2], [TEXTS[2]]], raw_scores=True))[0]
    same = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    logits = (await post(server, "/classify", input=same, use_activation=False))["data"][0]["probs"]
    assert [each["score"] for each in pair] == sorted(logits, reverse=True)


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({}, "input", "required"),
        ({"input": []}, "input", "nothing to read"),
        ({"input": ["a", ""]}, "input.1", "empty"),
        ({"input": {"text": "a", "text_pair": ""}}, "input.0", "empty"),
        ({"input": {"text_pair": "a"}}, "input.0", "'text'"),
        ({"input": ["a", 5]}, "input.1", "string"),
        ({"input": ["a", [5]]}, "input.1", "string"),
        ({"input": [[5], "a"]}, "input.1", "list"),
        ({"input": [5, "a"]}, "input.1", "token id"),
        ({"input": ["a"] * 6}, "input", "--max-embedding-inputs"),
        ({"input": "a " * 300}, "input.0", "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "at least 1"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "messages", "not supported"),
    ],
)
async def test_what_classify_refuses(server: Client, body: dict[str, Any], param: str, text: str) -> None:
    error = await refusal(server, "/classify", **body)
    assert error["param"] == param
    assert text in error["message"]


@pytest.mark.parametrize(
    ("inputs", "param", "text"),
    [
        ([], "inputs", "nothing to read"),
        (5, "inputs", "must be a text"),
        (None, "inputs", "must be a text"),
        ({"text": "a"}, "inputs", "must be a text"),
        ("", "inputs", "empty"),
        (["a", ""], "inputs", "empty"),
        (["a", "b", "c"], "inputs", "lists of their own"),
        (["a", 5], "inputs.1", "string"),
        ([["a"], []], "inputs.1", "0 texts"),
        ([["a"], "b"], "inputs.1", "list"),
        ([["a"], ["b", 5]], "inputs.1.1", "string"),
        ([["a"]] * 6, "inputs", "--max-embedding-inputs"),
        ("a " * 300, "inputs", "256"),
    ],
)
async def test_what_predict_refuses(server: Client, inputs: Any, param: str, text: str) -> None:
    error = await refusal(server, "/predict", inputs=inputs)
    assert error["param"] == param
    assert text in error["message"]


async def test_long_texts_are_cut_where_that_is_asked_for(server: Client) -> None:
    text = "a " * 300
    whole = await post(server, "/classify", input=text, truncate_prompt_tokens=-1)
    assert whole["usage"]["prompt_tokens"] == 256
    assert len(await post(server, "/predict", inputs=text, truncate=True)) == 3


async def test_the_classifier_is_listed_and_does_nothing_else(server: Client) -> None:
    listed = {model["id"]: model for model in (await server.get("/models")).json()["data"]}
    assert listed["fake-classes"]["capabilities"] == ["classify", "predict"]
    error = await refusal(server, "/embeddings", input="a", model="fake-classes")
    assert "for classifier only" in error["message"]
    error = await refusal(server, "/classify", input="a", model="fake-embed")
    assert "Name a classifier: fake-classes" in error["message"]


@pytest.mark.parametrize("path", ["/classify", "/predict"])
async def test_without_a_classifier(path: str) -> None:
    async with open_client() as client:
        response = await client.post(path, json={"input": "a", "inputs": "a"})
        assert response.status_code == 404
        message = "There is no model for this. Start the server with --classifier-model."
        assert response.json()["error"]["message"] == message


async def test_numbers_that_are_none_are_no_answer() -> None:
    load = fake_encoder_loader(nan_on=7)
    async with open_client(load_encoder=load, classifier_model="fake-classes") as client:
        response = await client.post("/classify", json={"input": [[7], [8]]})
        assert response.status_code == 500
        assert (await client.post("/classify", json={"input": [[8]]})).status_code == 200
