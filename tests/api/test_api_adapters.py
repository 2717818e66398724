"""Adapters as models of their own, in all APIs; on the fake engine, and live on the native one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_server import KEY
from fake_server import Client, fake_loader, open_client, running_server
from patience import PATIENCE_S, until
from tiny_adapters import write_adapter
from tiny_models import write_tiny_llama

from llm_serving.api.app import create_app
from llm_serving.backends import EngineChoice
from llm_serving.checkpoints import open_checkpoint
from llm_serving.config import Settings, SettingsError
from llm_serving.engine.tier import BlockTier
from llm_serving.service import loader
from llm_serving.service.model import ChatModel
from llm_serving.service.registry import Registry

pytestmark = pytest.mark.anyio

LORA = ("pirate=/somewhere/private/pirate-v2", "org/Poet=poet")
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell me of the sea, of ships and of storms."}],
    "max_tokens": 12,
}
GREEDY = {**CHAT, "temperature": 0, "ignore_eos": True}


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with open_client(behaviour={"random": True}, lora=LORA) as opened:
        yield opened


async def test_lists_name_them_behind_the_models(client: Client) -> None:
    models = (await client.get("/models")).json()["data"]
    assert [model["id"] for model in models] == ["fake", "fake-embed", "pirate", "org/Poet"]
    base, _, pirate, poet = models
    assert (pirate["parent"], pirate["root"], poet["root"]) == ("fake", "pirate-v2", "poet")
    own = ("id", "aliases", "parent", "root")
    assert {**pirate, **{key: base.get(key) for key in own}} == {**base, "parent": None, "root": None}
    assert "parent" not in base
    assert (await client.get("/models/pirate")).json() == pirate
    assert (await client.get("/models/ORG/poet:latest")).json() == poet
    assert (await client.get("/models/parrot")).status_code == 404
    assert "private" not in (await client.get("/models")).text


async def test_ollamas_lists(client: Client) -> None:
    tags = (await client.get("/api/tags")).json()["models"]
    assert [tag["name"] for tag in tags] == [
        "fake:latest",
        "fake-embed:latest",
        "pirate:latest",
        "org/Poet:latest",
    ]
    assert [tag["details"]["parent_model"] for tag in tags] == ["", "", "fake:latest", "fake:latest"]
    assert len({tag["digest"] for tag in tags}) == 4
    shown = (await client.post("/api/show", json={"model": "pirate"})).json()
    assert shown["details"]["parent_model"] == "fake:latest"
    assert shown["model_info"]["general.basename"] == "pirate"
    assert (await client.post("/api/pull", json={"model": "pirate", "stream": False})).status_code == 200


TEXTS: dict[str, tuple[dict[str, Any], Any]] = {
    "/chat/completions": (GREEDY, lambda body: body["choices"][0]["message"]["content"]),
    "/completions": (
        {"prompt": "The sea and its ships", "max_tokens": 12, "temperature": 0, "ignore_eos": True},
        lambda body: body["choices"][0]["text"],
    ),
    "/responses": (
        {"input": "The sea", "max_output_tokens": 40, "temperature": 0},
        lambda body: body["output"][0]["content"][0]["text"],
    ),
    "/messages": ({**CHAT, "max_tokens": 40, "temperature": 0}, lambda body: body["content"][0]["text"]),
    "/api/chat": (
        {**CHAT, "stream": False, "options": {"temperature": 0}},
        lambda body: body["message"]["content"],
    ),
    "/api/generate": (
        {"prompt": "The sea", "stream": False, "options": {"temperature": 0, "num_predict": 12}},
        lambda body: body["response"],
    ),
}


@pytest.mark.parametrize("path", TEXTS)
async def test_every_api_chooses_by_name(client: Client, path: str) -> None:
    body, text = TEXTS[path]
    texts = {}
    for name in ("fake", "pirate", "org/Poet", "pirate"):
        answer = await client.post(path, json={**body, "model": name})
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == name
        assert texts.setdefault(name, text(answer.json())) == text(answer.json())
    assert len(set(texts.values())) == 3
    unknown = (await client.post(path, json={**body, "model": "gpt-4"})).json()
    assert (unknown["model"], text(unknown)) == ("fake", texts["fake"])


async def test_streams_and_batches(client: Client) -> None:
    names = ["fake", "pirate", "org/Poet"]
    alone = [
        (await client.post("/chat/completions", json={**GREEDY, "model": name})).json() for name in names
    ]
    together = await asyncio.gather(
        *(client.post("/chat/completions", json={**GREEDY, "model": name}) for name in names * 3)
    )
    for one, name in zip(together, names * 3, strict=True):
        assert one.json()["choices"][0]["message"] == alone[names.index(name)]["choices"][0]["message"]
    stream = await client.post("/chat/completions", json={**GREEDY, "model": "pirate", "stream": True})
    assert stream.text.count('"model":"pirate"') > 5
    assert '"model":"fake"' not in stream.text


async def test_waiting_for_the_model_by_ollamas_empty_request(client: Client) -> None:
    assert (await client.post("/api/generate", json={"model": "pirate"})).json()["model"] == "pirate"


async def test_prompts_are_cached_by_adapter(client: Client) -> None:
    async def cached(name: str) -> int:
        answer = await client.post("/chat/completions", json={**GREEDY, "model": name})
        return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [await cached(name) for name in ("fake", "pirate", "org/Poet")] == [0, 0, 0]
    assert min([await cached(name) for name in ("fake", "pirate", "org/Poet")]) > 0


async def test_metrics_and_log_lines_name_who_answered(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await client.post("/chat/completions", json={**GREEDY, "model": "pirate"})
    metrics = (await client.get("/metrics")).text
    assert 'llm_serving_sequence_seconds_count{model="pirate"} 1.0' in metrics
    assert 'llm_serving_generated_tokens_total{model="fake"} 12.0' in metrics
    await until(lambda: any("model=pirate" in record.getMessage() for record in caplog.records))


async def test_they_do_not_embed_and_are_not_loaded_by_themselves() -> None:
    async with open_client(lora=LORA, api_key=("k",), headers=KEY) as client:
        refused = await client.post("/embeddings", json={"input": "a", "model": "pirate"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
        for what in ("load", "unload"):
            refused = await client.post(f"/admin/models/pirate/{what}")
            assert refused.status_code == 400
            assert "comes and goes with its model. Name that: fake." in refused.json()["error"]["message"]
        assert (await client.post("/admin/models/fake/unload")).status_code == 200
        gone = await client.post("/chat/completions", json={**CHAT, "model": "pirate"})
        assert (gone.status_code, gone.json()["error"]["code"]) == (503, "model_unavailable")
        assert (await client.get("/models/pirate")).json()["state"] == "unloaded"
        assert (await client.post("/admin/models/fake/load")).status_code == 200
        again = await client.post("/chat/completions", json={**CHAT, "model": "pirate"})
        assert again.json()["model"] == "pirate"


async def test_strict_names_know_them() -> None:
    async with open_client(lora=LORA, strict_model_names=True) as client:
        refused = await client.post("/chat/completions", json={**CHAT, "model": "parrot"})
        assert refused.status_code == 404
        assert "Served here: fake, fake-embed, pirate, org/Poet" in refused.json()["error"]["message"]
        assert (await client.post("/chat/completions", json={**CHAT, "model": "pirate"})).status_code == 200


async def test_further_models_have_none() -> None:
    given: dict[str, tuple[str, ...]] = {}

    def load(settings: Settings) -> ChatModel:
        given[settings.model_name] = settings.lora
        return fake_loader()(settings)

    async with open_client(load, lora=LORA, further_models=("one",), wait=False) as client:
        await client.services.registry.default.settled()
        assert (await client.post("/chat/completions", json={**CHAT, "model": "one"})).status_code == 200
    assert given == {"fake": LORA, "one": ()}


async def test_an_engine_that_was_chosen_and_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` takes transformers on a GPU."""
    settings = native(tmp_path, "a=/x")
    choice = EngineChoice("transformers", "it is told so")
    monkeypatch.setattr(loader, "choose_engine", lambda *_: choice)
    with pytest.raises(SettingsError, match=r"--lora .*the transformers engine runs no adapters"):
        loader.load_chat_model(settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"lora": ("a=/x", "A=/y")}, "'A' names two"),
        ({"lora": ("fake=/x",)}, "'fake' names two"),
        ({"lora": ("fake:latest=/x",)}, "'fake:latest' names two"),
        ({"lora": ("SmolLM2=/x",), "model_name": "smollm2-135m-instruct"}, "'SmolLM2' names two"),
        ({"lora": ("fake-embed=/x",)}, "'fake-embed' names two"),
        ({"lora": ("b=/x",), "further_models": ("b",)}, "'b' names two"),
        (
            {"lora": ("a=/x",), "engine": "transformers"},
            "the transformers engine runs no adapters.*--engine native",
        ),
        ({"lora": ("a=/x",), "engine": "vllm"}, "the vllm engine runs no adapters.*--engine native"),
        ({"lora": ("a",)}, "must be NAME=DIR"),
        ({"lora": ("=/x",)}, "must be NAME=DIR"),
        ({"lora": ("a=",)}, "must be NAME=DIR"),
        ({"lora": ("a b=/x",)}, "must be NAME=DIR"),
        ({"lora": tuple(f"a{i}=/x" for i in range(65))}, "names 65 adapters; 64 are possible"),
    ],
)
async def test_adapters_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    base = {"model_name": "fake", "embedding_model": "fake-embed", "engine": "fake"}
    with pytest.raises(SettingsError, match=rf"--lora \(LLM_SERVING_LORA\): {problem}"):
        Registry(Settings(**{**base, **settings}), fake_loader())


def native(tmp_path: Path, *lora: str, **more: Any) -> Settings:
    path = tmp_path / "tiny.gguf"
    if not path.exists():
        write_tiny_llama(path, context=512)
    return Settings(
        model_name=str(path),
        embedding_model="",
        cache_dir=tmp_path / "cache",
        threads=2,
        drain_s=0,
        lora=lora,
        **more,
    )


def ask(url: str, name: str, **more: Any) -> dict[str, Any]:
    body = {**GREEDY, "model": name, "logprobs": True, **more}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def said(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(each["token"], each["logprob"]) for each in answer["choices"][0]["logprobs"]["content"]]


@pytest.mark.slow
async def test_live_on_the_native_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and all at once; the base as on a server without adapters; blocks on disk after a restart."""
    monkeypatch.setattr(BlockTier, "PATIENCE", math.inf)  # so small a model is often faster than the disk
    native(tmp_path)
    file = open_checkpoint(str(tmp_path / "tiny.gguf"))
    lora = tuple(f"own{seed}={write_adapter(tmp_path / f'own{seed}', file, seed=seed)}" for seed in (1, 2, 3))
    names = ["tiny", "own1", "own2", "own3"]
    with running_server(create_app(native(tmp_path))) as url:
        plain = ask(url, "tiny")
    disk = {"prefix_cache_dir": tmp_path / "prefixes"}
    with running_server(create_app(native(tmp_path, *lora, **disk))) as url:
        alone = [ask(url, name) for name in names]
        together = await asyncio.gather(*(asyncio.to_thread(ask, url, name) for name in names * 4))
    assert said(alone[0]) == said(plain)
    assert len({str(said(each)) for each in alone}) == 4
    assert len({each["system_fingerprint"] for each in alone}) == 4
    assert alone[0]["system_fingerprint"] == plain["system_fingerprint"]
    for i, each in enumerate(together):
        assert (each["model"], said(each)) == (names[i % 4], said(alone[i % 4]))
    with running_server(create_app(native(tmp_path, lora[1], lora[0], **disk))) as url:
        again = {name: ask(url, name) for name in ("tiny", "own1", "own2")}
    for i, (name, each) in enumerate(again.items()):
        assert said(each) == said(alone[i]), name
        assert each["usage"]["prompt_tokens_details"]["cached_tokens"] > 0, name


@pytest.mark.slow
async def test_one_that_cannot_be_read_fails_the_model_without_its_folders(tmp_path: Path) -> None:
    folder = tmp_path / "my private" / "adapters"
    native(tmp_path)
    write_adapter(folder / "cut", open_checkpoint(str(tmp_path / "tiny.gguf")))
    weights = folder / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    app = create_app(native(tmp_path, f"cut={folder / 'cut'}"))
    async with app.router.lifespan_context(app), Client(app) as client:
        await asyncio.wait_for(client.services.registry.default.settled(), PATIENCE_S)
        refused = await client.post("/chat/completions", json={**CHAT, "model": "cut"})
        message = refused.json()["error"]["message"]
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
        assert "Adapter 'cut': adapter_model.safetensors: tensor" in message
        assert "private" not in message
