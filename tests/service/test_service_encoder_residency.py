"""Embedding models and rerankers leave memory for further chat models, and come back when asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_server import Client
from patience import until
from several_models import MIB, Zoo, ask, opened, states
from tiny_encoders import write_tiny_bert

from llm_serving.config import Settings
from llm_serving.service.facts import read_facts
from llm_serving.service.measuring import measure_model
from llm_serving.service.model import ModelKind

pytestmark = pytest.mark.anyio

SIZES = {"fake": 100, "one": 100, "fake-embed": 60, "fake-rank": 60}
ENCODERS = ("embedding", "reranker")


def embed(client: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post("/embeddings", json={"input": "a"}))


def rank(client: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post("/rerank", json={"query": "a", "documents": ["b"]}))


async def encoder_states(client: Client) -> list[str]:
    return list((await states(client, *ENCODERS)).values())


async def test_all_stay_while_there_is_room() -> None:
    zoo = Zoo(SIZES)
    async with opened(zoo, "one", memory=330 * MIB, reranker_model="fake-rank") as client:
        for asked in (ask(client, "one"), embed(client), rank(client), ask(client, "fake")):
            assert (await asked).status_code == 200
        assert await encoder_states(client) == ["loaded", "loaded"]
        assert set(zoo.loads.values()) == set(zoo.encoder_loads.values()) == {1}


async def test_the_one_used_least_recently_leaves_and_comes_back() -> None:
    zoo = Zoo(SIZES)
    async with opened(zoo, "one", memory=270 * MIB, reranker_model="fake-rank") as client:
        for asked in (rank, embed):  # one after the other
            assert (await asked(client)).status_code == 200
        assert (await ask(client, "one")).status_code == 200
        assert await encoder_states(client) == ["loaded", "available"]
        assert (await client.get("/ready")).status_code == 200
        assert (await rank(client)).status_code == 200  # for which the embedding model leaves
        assert await encoder_states(client) == ["available", "loaded"]
        assert zoo.loads == {"fake": 1, "one": 1}
        assert zoo.encoder_loads == {"fake-embed": 1, "fake-rank": 2}


async def test_a_chat_model_leaves_for_an_encoder_that_comes_back() -> None:
    zoo = Zoo(SIZES)
    async with opened(zoo, "one", memory=210 * MIB) as client:
        assert (await ask(client, "one")).status_code == 200
        assert await encoder_states(client) == ["available"]
        assert (await embed(client)).status_code == 200
        assert await states(client) == {"fake": "loaded", "one": "available"}
        assert await encoder_states(client) == ["loaded"]


async def test_an_encoder_is_not_refused_where_everybody_else_is_answering() -> None:
    """It was promised from the start on, and is small."""
    zoo = Zoo(SIZES, random=True)
    async with opened(zoo, "one", memory=210 * MIB) as client:
        assert (await ask(client, "one")).status_code == 200
        zoo.steps.shut()
        busy = ask(client, "one", max_tokens=40, ignore_eos=True)
        await until(lambda: zoo.engines[1].stats().num_running)
        assert (await embed(client)).status_code == 200
        zoo.steps.open()
        assert (await busy).status_code == 200


async def test_an_encoder_that_is_asked_stays() -> None:
    zoo = Zoo(SIZES)
    async with opened(zoo, "one", memory=210 * MIB) as client:
        slot = client.services.registry.embedding
        assert slot is not None
        with slot.used():
            assert (await ask(client, "one")).status_code == 503
        assert zoo.encoder_loads["fake-embed"] == 1


async def test_many_requests_for_an_encoder_that_left_are_one_load() -> None:
    zoo = Zoo(SIZES)
    async with opened(zoo, "one", memory=210 * MIB) as client:
        assert (await ask(client, "one")).status_code == 200
        answers = await asyncio.gather(*(embed(client) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert zoo.encoder_loads["fake-embed"] == 2


@pytest.mark.parametrize(("precision", "bytes_of_a_weight"), [("f32", 4.0), ("q8", 1.5), ("auto", 4.0)])
def test_a_real_encoder_is_measured_by_its_weights(
    tmp_path: Path, precision: Any, bytes_of_a_weight: float
) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    facts = read_facts(folder)
    assert facts is not None
    settings = Settings(embedding_model=str(folder), embedding_precision=precision)
    need = measure_model(settings, ModelKind.EMBEDDING)
    assert need is not None
    assert need.weights == int(facts.num_parameters * bytes_of_a_weight)
